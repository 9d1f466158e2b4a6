"""Where the chat's one WebSocket is; the page reads the address from its template."""

from django.urls import path

from .consumers import ChatConsumer

STREAM_PATH = "chat/stream/"

websocket_urlpatterns = [path(STREAM_PATH, ChatConsumer.as_asgi())]
