"""A synchronous Django site, some of whose pages use asyncio: what test_gunicorn.py serves.

Each page is one that somebody reported as failing under `gunicorn -k gevent`. A page named
`hold-…` runs a loop and stays inside it until `/go`, so a test decides what happens meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

import dj_database_url
import django
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="-",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.contenttypes"],
    MIDDLEWARE=[f"{__name__}.name_the_error"],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SITE_SQLITE"]},
        "postgres": dj_database_url.parse(os.environ["SITE_POSTGRES"]),
    },
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()
call_command("migrate", verbosity=0)

from channels.layers import get_channel_layer  # noqa: E402 - they need the settings
from django.contrib.contenttypes.models import ContentType  # noqa: E402
from django.db import connections  # noqa: E402

inside, released = threading.Event(), threading.Event()


def name_the_error(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., object]:
    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    middleware.process_exception = lambda request, error: HttpResponse(  # type: ignore[attr-defined]
        f"{type(error).__name__}: {error}", status=500
    )
    return middleware


# -- what the pages do


async def stay() -> str:
    inside.set()
    while not released.is_set():
        await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(3)))
    return "stayed"


async def gathered() -> str:
    return "".join(await asyncio.gather(*(asyncio.sleep(0.001, letter) for letter in "abc")))


def counted() -> str:
    return f"{ContentType.objects.count()} types"


async def half_and_half() -> str:
    return await sync_to_async(counted)()


def asked_twice() -> str:
    """Two statements; the first waits for a lock that the test holds."""
    with connections["postgres"].cursor() as cursor:
        inside.set()
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [int(os.environ["SITE_LOCK"])])
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT 'both'")
        return str(cursor.fetchone()[0])


def sent_to_a_group() -> str:
    async_to_sync(get_channel_layer().group_send)("room", {"type": "chat.message"})
    return "sent"


# -- the pages


def page(answer: Callable[[], str]) -> Callable[[HttpRequest], HttpResponse]:
    return lambda request: HttpResponse(answer())


async def asynchronous_view(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0.001)
    return HttpResponse(f"{await ContentType.objects.acount()} types")


async def hold_asynchronous_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await stay())


def begin() -> str:
    inside.clear()
    released.clear()
    return "begun"


def wait_inside() -> str:
    return str(inside.wait(60))


def go() -> str:
    released.set()
    return "gone"


PAGES: dict[str, Callable[[], str]] = {
    "begin": begin,
    "inside": wait_inside,
    "go": go,
    "orm": counted,
    "hold-run": lambda: asyncio.run(stay()),
    "run": lambda: asyncio.run(gathered()),
    "hold-async-to-sync": lambda: async_to_sync(stay)(),
    "async-to-sync": lambda: async_to_sync(gathered)(),
    "sync-to-async": lambda: async_to_sync(half_and_half)(),
    "group-send": sent_to_a_group,
    "postgres": asked_twice,
}
urlpatterns = [path(name, page(answer)) for name, answer in PAGES.items()] + [
    path("async-view", asynchronous_view),
    path("hold-async-view", hold_asynchronous_view),
]

application = get_wsgi_application()
