"""A small site as Channels' tutorial has it: two rooms' worth of consumers and a background worker.

Runs unchanged under Daphne, Uvicorn and Hypercorn, and under `runworker`.
"""

import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.contract.stock_settings")

from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path


def page(request):
    """A page that speaks in the room: `async_to_sync` from a view."""
    from channels.layers import get_channel_layer

    async_to_sync(get_channel_layer().group_send)("room", {"type": "line", "text": "a page"})
    return HttpResponse("gevent" if "gevent" in sys.modules else "no gevent")


class Room(WebsocketConsumer):
    """Send each line to all members; "job …" goes to the background worker."""

    groups = ("room",)

    def receive(self, text_data=None, bytes_data=None):
        if text_data.startswith("job "):
            job = {"type": "job.do", "text": text_data, "for": self.channel_name}
            async_to_sync(self.channel_layer.send)("jobs", job)
        else:
            message = {"type": "line", "text": text_data}
            async_to_sync(self.channel_layer.group_send)("room", message)

    def line(self, event):
        self.send(text_data=event["text"])

    def messages_lost(self, event):
        self.send(text_data=f"lost {event['count']}")


class AsyncRoom(AsyncWebsocketConsumer):
    """The same, asynchronously."""

    groups = ("room",)

    async def receive(self, text_data=None, bytes_data=None):
        if text_data.startswith("job "):
            job = {"type": "job.do", "text": text_data, "for": self.channel_name}
            await self.channel_layer.send("jobs", job)
        else:
            await self.channel_layer.group_send("room", {"type": "line", "text": text_data})

    async def line(self, event):
        await self.send(text_data=event["text"])

    async def messages_lost(self, event):
        await self.send(text_data=f"lost {event['count']}")


class Jobs(SyncConsumer):
    """Does jobs in the background and tells who wanted them."""

    def job_do(self, event):
        answer = {"type": "line", "text": f"done: {event['text']}"}
        async_to_sync(self.channel_layer.send)(event["for"], answer)


urlpatterns = [path("page", page)]
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("sync", Room.as_asgi()), path("async", AsyncRoom.as_asgi())]),
        "channel": ChannelNameRouter({"jobs": Jobs.as_asgi()}),
    }
)
