"""Rules of the chat, tried through the real application: stock Channels, stock Django, Postgres.

No socket and no server: `Browser` hands ASGI events to multichat.asgi (like the communicator in
channels.testing, which cannot be imported without Daphne). The channel layer is Channels'
in-memory one, the reference for what a layer does.

A coroutine test runs under `async_to_sync`, so what it and the consumers do synchronously happens
in pytest's own thread: in the database connection and the transaction of the test.
"""

import inspect
import json
from typing import ClassVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth import get_user_model
from django.test import Client

from chat.models import Room

PATIENCE = 60  # s to wait for a frame; far more than it takes


def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def test():
        try:
            await pyfuncitem.obj(**arguments)
        finally:
            await Browser.close_all()

    async_to_sync(test)()
    return True


@pytest.fixture(autouse=True)
def reference_settings(settings):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.CHAT_RATE = 1000.0
    settings.CHAT_BURST = 1000


@pytest.fixture(autouse=True)
def one_connection(monkeypatch):
    """Channels closes the database connection after every event, and the test's data with it."""
    monkeypatch.setattr("channels.db.close_old_connections", lambda: None)


@pytest.fixture
def make_user(db):
    def make(name, **more):
        return get_user_model().objects.create_user(name, password="a long one", **more)

    return make


@pytest.fixture
def alice(make_user):
    return make_user("alice", is_staff=True, is_superuser=True)


@pytest.fixture
def bob(make_user):
    return make_user("bob")


@pytest.fixture
def lobby(db):
    return Room.objects.create(title="Lobby")


@pytest.fixture
def den(db):
    return Room.objects.create(title="Den", staff_only=True)


class Browser(ApplicationCommunicator):
    """One page's WebSocket, of a user who is logged in (or of nobody: user=None)."""

    opened: ClassVar[list["Browser"]] = []

    @classmethod
    async def close_all(cls):
        """Let every consumer end before the loop does: a handler's coroutine would have none."""
        while cls.opened:
            browser = cls.opened.pop()
            if browser.future is not None and not browser.future.done():
                await browser.disconnect()

    def __init__(self, user, origin="http://localhost"):
        from multichat.asgi import application

        self.login = Client()
        headers = [(b"origin", origin.encode())]
        if user is not None:
            self.login.force_login(user)
            headers.append(
                (b"cookie", f"sessionid={self.login.cookies['sessionid'].value}".encode())
            )
        scope = {"type": "websocket", "path": "/chat/stream/", "query_string": b""}
        super().__init__(application, scope | {"headers": headers, "subprotocols": []})
        self.opened.append(self)

    async def connect(self):
        """True if the socket was accepted, False if it was refused."""
        await self.send_input({"type": "websocket.connect"})
        answer = await self.receive_output(PATIENCE)
        assert answer["type"] in ("websocket.accept", "websocket.close")
        return answer["type"] == "websocket.accept"

    async def disconnect(self):
        await self.send_input({"type": "websocket.disconnect", "code": 1001})
        await self.wait(PATIENCE)

    async def send(self, text):
        await self.send_input({"type": "websocket.receive", "text": text})

    async def frame(self):
        """The next frame, which must be text and JSON."""
        event = await self.receive_output(PATIENCE)
        assert event["type"] == "websocket.send"
        return json.loads(event["text"])

    async def ask(self, command, room, **more):
        await self.send(json.dumps({"command": command, "room": room, **more}))

    async def answer(self, command, room, **more):
        await self.ask(command, room, **more)
        return await self.frame()

    async def heard_nothing(self):
        """True if no frame was under way: the next ones answer questions asked only now.

        Several, because a consumer that has both takes the browser's frame before the room's.
        """
        for _ in range(3):
            await self.send("?")
            if await self.frame() != {"error": "FRAME_NOT_JSON"}:
                return False
        return True


@pytest.fixture
def new_browser(db):
    """await new_browser(user, origin=…): a Browser that has not knocked yet."""
    return sync_to_async(Browser)


@pytest.fixture
def open_browser(new_browser):
    """await open_browser(user, *rooms): a connected Browser that is in these rooms."""

    async def open_one(user, *rooms):
        browser = await new_browser(user)
        assert await browser.connect()
        for room in rooms:
            assert await browser.answer("join", room.pk) == {
                "join": str(room.pk),
                "title": room.title,
            }
        return browser

    return open_one
