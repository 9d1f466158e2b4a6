"""Rooms and users in Django's admin. Changes made here reach open sockets immediately.

Taught in notebooks/11_multichat.ipynb.
"""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from .access import announce
from .models import Room


class AnnouncingAdmin(admin.ModelAdmin):
    """Announces each row that is changed or deleted, singly or in bulk."""

    def announce(self, ids: Iterable[int]) -> None:
        raise NotImplementedError

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change:
            self.announce([obj.pk])

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        gone = [obj.pk]  # Django sets it to None
        super().delete_model(request, obj)
        self.announce(gone)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        gone = list(queryset.values_list("pk", flat=True))
        super().delete_queryset(request, queryset)
        self.announce(gone)


@admin.register(Room)
class RoomAdmin(AnnouncingAdmin):
    list_display = ("id", "title", "staff_only")
    list_display_links = ("id", "title")
    list_filter = ("staff_only",)
    search_fields = ("title",)

    def announce(self, ids: Iterable[int]) -> None:
        announce(ids)


class ChatUserAdmin(AnnouncingAdmin, UserAdmin):
    def announce(self, ids: Iterable[int]) -> None:
        rooms = list(Room.objects.values_list("pk", flat=True))
        for user_id in ids:
            announce(rooms, user_id)


# A project with a custom user model has its own admin for it.
if get_user_model() is User:
    admin.site.unregister(User)
    admin.site.register(User, ChatUserAdmin)
