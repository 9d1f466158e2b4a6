"""The application that all servers run: ordinary small pages and consumers."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.settings")

from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.urls import path


def page(request):
    return HttpResponse("hello")


def page_with_query(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'hello'")
        return HttpResponse(cursor.fetchone()[0])


urlpatterns = [path("page", page), path("query", page_with_query)]


class Echo(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data=text_data)


class AsyncEcho(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)


class Room(WebsocketConsumer):
    """Sends each message to all members of the room, the sender included."""

    def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)
        self.accept()

    def receive(self, text_data=None, bytes_data=None):
        line = {"type": "room.line", "text": text_data}
        async_to_sync(self.channel_layer.group_send)(self.room, line)

    def room_line(self, event):
        self.send(text_data=event["text"])

    def disconnect(self, code):
        async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)


class Wait(WebsocketConsumer):
    """Answers after a query of 50 ms."""

    def receive(self, text_data=None, bytes_data=None):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.05)")
        self.send(text_data=text_data)


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [
                path("echo", Echo.as_asgi()),
                path("async-echo", AsyncEcho.as_asgi()),
                path("room/<room>", Room.as_asgi()),
                path("wait", Wait.as_asgi()),
            ]
        ),
    }
)
wsgi = get_wsgi_application()
