"""A small site, and a process that runs the tests' programs on it.

Reads one program per line (JSON) from standard input; answers each with a line: what it printed.
"""

from gevent import monkey

monkey.patch_all()

import asyncio
import contextlib
import io
import json
import sys
import traceback
import warnings

import django
import gevent
from django.conf import settings

settings.configure(
    SECRET_KEY="x",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="__main__",
    INSTALLED_APPS=[],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()

from asgiref.sync import async_to_sync
from channels.exceptions import DenyConnection, StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import channel_layers
from channels.routing import ProtocolTypeRouter
from channels.sessions import SessionMiddlewareStack
from django.core import signals
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import clear_url_caches, path

import thyme.loop
from tests.thyme.peer import CONNECT, HTTP, REQUEST, WEBSOCKET, Peer, ReadyPeer
from thyme.fastpath import patches
from thyme.loading import prepare

thyme.loop.install()
urlpatterns = []
STOCK = False


def serve(consumer, wrap=lambda inner: inner):
    """Return an application of the consumer, on the path that STOCK selects."""
    return prepare(ProtocolTypeRouter({"websocket": wrap(consumer.as_asgi())}), stock=STOCK)


def converse(consumer, *texts, **options):
    """What a consumer sends while it is told `texts` and then left; or how it failed."""
    peer = Peer(serve(consumer, **options), WEBSOCKET, CONNECT)
    for text in texts:
        peer.say(text)
    peer.leave()
    try:
        return peer.end()
    except Exception as error:
        return [repr(error)]


def site():
    """Return an application of Django's pages, on the path that STOCK selects."""
    return prepare(ProtocolTypeRouter({"http": get_asgi_application()}), stock=STOCK)


def request(url="/", body=b"", **scope):
    """The events that answer a request."""
    scope = HTTP | {"path": url, "raw_path": url.encode()} | scope
    peer = Peer(site(), scope, {"type": "http.request", "body": body, "more_body": False})
    return peer.end()


def show(events):
    """Print events, headers in order."""
    for event in events:
        if "headers" in event:
            event["headers"] = sorted((name.lower(), value) for name, value in event["headers"])
        print(event)


def watch_signals():
    """Print when Django says that a request has started or finished."""

    def started(**known):
        print("started", "path" in known["scope"])

    def finished(**known):
        print("finished")

    signals.request_started.connect(started, weak=False, dispatch_uid="started")
    signals.request_finished.connect(finished, weak=False, dispatch_uid="finished")


@contextlib.contextmanager
def as_it_was():
    """Undo what a program does to settings, URLs, signals, channel layers and consumers."""
    before = dict(vars(settings._wrapped))
    yield
    vars(settings._wrapped).clear()
    vars(settings._wrapped).update(before)
    for name in [name for name in vars(settings) if name.isupper()]:
        del vars(settings)[name]  # what LazySettings remembers
    urlpatterns.clear()
    clear_url_caches()
    signals.request_started.disconnect(dispatch_uid="started")
    signals.request_finished.disconnect(dispatch_uid="finished")
    channel_layers.backends.clear()
    patches.uninstall()


def run(program, stock):
    """Run a program among the names of this module; what it prints, or its traceback."""
    global STOCK
    STOCK = stock
    printed, error = io.StringIO(), None
    with contextlib.redirect_stdout(printed), as_it_was(), warnings.catch_warnings():
        try:
            exec(program, dict(globals()))
        except BaseException:
            error = traceback.format_exc()
    return {"printed": printed.getvalue(), "error": error}


if __name__ == "__main__":
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(run(order["program"], order["STOCK"])), flush=True)
    thyme.loop.close_shared_loop()
