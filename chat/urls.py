"""The chat's pages: there is one."""

from django.urls import path

from .views import index

urlpatterns = [path("", index, name="index")]
