"""Asynchronous consumers: both paths give the same, with two channel layers.

As in `test_sync_consumers.py`, a scenario is a program that must print the same on both paths. On
the fast path gredis notifies of messages; Channels' in-memory layer is received from, as ever.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import running_redis
from tests.thyme.conftest import Paths


@pytest.fixture(scope="module")
def layer_settings() -> Iterator[dict[str, str]]:
    """A program's first line, for each channel layer."""
    with running_redis("valkey") as redis:
        gredis = {"BACKEND": "gredis.GredisChannelLayer", "CONFIG": {"url": redis.url}}
        yield {
            "memory": "",
            "none": "settings.CHANNEL_LAYERS = {}\n",
            "gredis": f"settings.CHANNEL_LAYERS = {{'default': {gredis}}}\n",
        }


class LayeredWays(Paths):
    """Runs programs in the child, with a channel layer set before."""

    before = ""

    def run(self, program: str, *, stock: bool) -> str:
        lines = self.before + "if True:\n" + program
        return super().run(lines, stock=stock)


@pytest.fixture(params=["memory", "gredis"])
def paths(request, layer_settings, child) -> LayeredWays:
    paths = LayeredWays(child)
    paths.before = layer_settings[request.param]
    return paths


@pytest.fixture
def without_layer(layer_settings, child) -> LayeredWays:
    paths = LayeredWays(child)
    paths.before = layer_settings["none"]
    return paths


def test_events_are_handled_in_order_and_sent_in_order(paths):
    printed = paths.both("""
        class Echo(AsyncWebsocketConsumer):
            async def connect(self):
                await self.accept(subprotocol="chat")
            async def receive(self, text_data=None, bytes_data=None):
                await asyncio.sleep(0)
                await self.send(text_data=text_data.upper())
            async def disconnect(self, code):
                print("left", code)
        print([event.get("text") for event in converse(Echo, *"abc")])
    """)
    assert printed == "left 1001\n[None, 'A', 'B', 'C']"


def test_without_a_channel_layer_too(without_layer):
    assert (
        without_layer.both("""
        class Echo(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                await self.send(text_data=text_data)
        print([event.get("text") for event in converse(Echo, *"abc")])
    """)
        == "[None, 'a', 'b', 'c']"
    )


def test_groups_reach_all_members_in_the_senders_order(paths):
    assert paths.both("""
        class Room(AsyncWebsocketConsumer):
            async def connect(self):
                await self.channel_layer.group_add("room", self.channel_name)
                await self.accept()
            async def receive(self, text_data=None, bytes_data=None):
                for number in range(3):
                    message = {"type": "room.line", "text": f"{text_data}{number}"}
                    await self.channel_layer.group_send("room", message)
            async def room_line(self, event):
                await self.send(text_data=event["text"])
        application = serve(Room)
        peers = [Peer(application, WEBSOCKET, CONNECT) for _ in range(3)]
        for peer in peers:
            assert peer.next()["type"] == "websocket.accept"
        peers[0].say("a")
        for peer in peers:
            print([peer.next()["text"] for _ in range(3)])
        for peer in peers:
            peer.leave()
            assert peer.end() == []
    """) == "\n".join(["['a0', 'a1', 'a2']"] * 3)


def test_handlers_of_one_connection_never_overlap(paths):
    assert paths.both("""
        busy, overlaps = [], []
        class Slow(AsyncWebsocketConsumer):
            async def connect(self):
                await self.accept()
                for _ in range(5):
                    await self.channel_layer.send(self.channel_name, {"type": "layer.says"})
            async def handle(self):
                overlaps.append(len(busy))
                busy.append(1)
                await asyncio.sleep(0.005)
                busy.pop()
            async def receive(self, text_data=None, bytes_data=None):
                await self.handle()
            async def layer_says(self, event):
                await self.handle()
        peer = Peer(serve(Slow), WEBSOCKET, CONNECT)
        for _ in range(5):
            peer.say("x")
        while len(overlaps) < 10:
            gevent.sleep(0.005)
        peer.leave()
        peer.end()
        print(overlaps)
    """) == str([0] * 10)


def test_a_flood_from_the_socket_does_not_keep_messages_waiting(paths):
    """There is always another event; the message has its turn all the same, once it has come."""
    assert (
        paths.both("""
        said, heard = [], gevent.event.Event()
        class Flooded(AsyncWebsocketConsumer):
            async def connect(self):
                await self.accept()
                await self.channel_layer.send(self.channel_name, {"type": "layer.says"})
            async def receive(self, text_data=None, bytes_data=None):
                if not heard.is_set():
                    peer.say("x")
                await asyncio.sleep(0.002)
            async def layer_says(self, event):
                heard.set()
        peer = ReadyPeer(serve(Flooded), WEBSOCKET, CONNECT)
        for _ in range(50):
            peer.say("x")
        print(heard.wait(30))
        heard.set()
        peer.leave()
        peer.end()
    """)
        == "True"
    )


def test_a_connection_that_always_has_events_leaves_others_their_turn(without_layer):
    assert (
        without_layer.both("""
        class Counts(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                counted.append(text_data)
        counted, application = [], serve(Counts)
        busy, other = [ReadyPeer(application, WEBSOCKET, CONNECT) for _ in range(2)]
        busy.next(), other.next()
        for number in range(500):
            busy.say("busy")
        other.say("other")
        while len(counted) < 501:
            gevent.sleep(0.005)
        print(counted.index("other") < 250)
        for peer in (busy, other):
            peer.leave()
            peer.end()
    """)
        == "True"
    )


def test_stop_consumer_raised_for_a_channel_message_ends_the_consumer(paths):
    assert paths.both("""
        class Stops(AsyncWebsocketConsumer):
            async def connect(self):
                await self.accept()
                await self.channel_layer.send(self.channel_name, {"type": "stop.now"})
            async def stop_now(self, event):
                raise StopConsumer()
        print(Peer(serve(Stops), WEBSOCKET, CONNECT).end())
    """).startswith("[{'type': 'websocket.accept'")


def test_errors_and_unknown_messages_reach_the_server(paths):
    assert paths.both("""
        class Fails(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                if text_data == "fail":
                    raise KeyError("mine")
                await self.channel_layer.send(self.channel_name, {"type": "no.such"})
        print(converse(Fails, "fail")[-1])
        peer = Peer(serve(Fails), WEBSOCKET, CONNECT)
        peer.say("x")
        try:
            peer.end()
        except ValueError as error:
            print(error)
    """).splitlines() == ["KeyError('mine')", "No handler for message type no.such"]


def test_a_consumer_that_overrides_dispatch_gets_every_message(paths):
    assert paths.both("""
        class Overrides(AsyncWebsocketConsumer):
            async def dispatch(self, message):
                print("mine", message["type"])
                await super().dispatch(message)
        converse(Overrides, "x")
    """).splitlines() == [f"mine websocket.{kind}" for kind in ("connect", "receive", "disconnect")]


def test_context_variables_and_tasks_are_those_of_the_connection(paths):
    assert (
        paths.both("""
        import contextvars
        said = contextvars.ContextVar("said", default="nothing")
        class Remembers(AsyncWebsocketConsumer):
            async def connect(self):
                said.set("connect")
                self.task = asyncio.current_task()
                await self.accept()
            async def receive(self, text_data=None, bytes_data=None):
                print(said.get(), asyncio.current_task() is self.task)
                said.set(text_data)
        converse(Remembers, "a", "b")
    """)
        == "connect True\na True"
    )


def test_a_middleware_that_wraps_receive_still_sees_every_event(paths):
    assert (
        paths.both("""
        class Counts:
            def __init__(self, inner):
                self.inner = inner
            async def __call__(self, scope, receive, send):
                seen = []
                async def counting():
                    event = await receive()
                    seen.append(event["type"])
                    return event
                await self.inner(scope, counting, send)
                print(seen)
        class Echo(AsyncWebsocketConsumer):
            pass
        converse(Echo, "a", wrap=Counts)
    """)
        == "['websocket.connect', 'websocket.receive', 'websocket.disconnect']"
    )


def test_connections_that_synchronous_code_leaves_open_are_closed_before_the_next_event(
    without_layer, tmp_path
):
    """Django's rule: close_old_connections() when a unit of work begins, in the same "thread"."""
    assert (
        without_layer.both(f"""
        from asgiref.sync import sync_to_async
        from django.db import connections
        name = "{tmp_path / "database"}"  # in memory it could not be closed
        settings.DATABASES = dict(default=dict(ENGINE="django.db.backends.sqlite3", NAME=name))
        connections.settings = connections.configure_settings(settings.DATABASES)
        def query():
            with connections["default"].cursor() as cursor:
                cursor.execute("SELECT 1")
        def is_open():
            return connections["default"].connection is not None
        class Asks(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                print(await sync_to_async(is_open)(), end=" ")
                await sync_to_async(query)()
                print(await sync_to_async(is_open)())
                await sync_to_async(make_obsolete)()
        def make_obsolete():
            connections["default"].close_at = 0
        converse(Asks, "a", "b")
    """)
        == "False True\nFalse True"
    )


def test_what_synchronous_code_leaves_open_is_closed_when_a_consumer_fails(without_layer, tmp_path):
    """Nobody calls `disconnect` then, and a pool would miss the connection for ever."""
    assert (
        without_layer.both(f"""
        from asgiref.sync import sync_to_async
        from django.db import connections
        name = "{tmp_path / "database"}"
        settings.DATABASES = dict(default=dict(ENGINE="django.db.backends.sqlite3", NAME=name))
        connections.settings = connections.configure_settings(settings.DATABASES)
        opened = []
        def query():
            connections["default"].ensure_connection()
            opened.append(connections["default"])
        class Fails(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                await sync_to_async(query)()
                raise KeyError("mine")
        print(converse(Fails, "x")[-1])
        gevent.idle()
        print(opened[0].connection)
    """)
        == "KeyError('mine')\nNone"
    )


def test_on_the_fast_path_an_event_is_no_job_for_the_executor(without_layer):
    """Only a connection that was opened there is looked after; its end is a job, too."""
    assert (
        without_layer.fast("""
        from asgiref.sync import sync_to_async
        from thyme.loop.executors import SerialExecutor
        jobs, start = [], SerialExecutor.start
        SerialExecutor.start = lambda self, *job: (jobs.append(job), start(self, *job))[1]
        class Echo(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                if text_data == "synchronous":
                    await sync_to_async(len)("")
                await self.send(text_data=text_data)
        try:
            converse(Echo, *"abc")
            print(len(jobs))
            converse(Echo, "a", "synchronous", "b", "c")
            print(len(jobs))
        finally:
            SerialExecutor.start = start
    """)
        == "0\n2"
    )
