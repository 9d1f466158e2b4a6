"""The path of the chat's WebSocket; the page gets it through its template."""

from django.urls import path

from .consumers import ChatConsumer

STREAM_PATH = "chat/stream/"

websocket_urlpatterns = [path(STREAM_PATH, ChatConsumer.as_asgi())]
