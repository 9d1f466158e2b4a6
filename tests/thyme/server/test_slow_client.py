"""Peers that do not read: what is done is a setting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from gevent.event import Event as Signal
from websockets.frames import Opcode

from tests.thyme.serving import (
    Browser,
    Peer,
    body,
    echo,
    eventually,
    hello_of_a_coroutine,
    let_servers_send_by,
    serving,
    start,
)
from thyme.asgi import Event, Receive, Scope, Send
from thyme.errors import Disconnected
from thyme.loop.bridge import adapt

TEXT = {"type": "websocket.send", "text": "x" * 65536}
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Talker:
    """An application that talks and talks."""

    def __init__(self) -> None:
        self.count = 0
        self.gone = Signal()
        self.heard: list[Event] = []
        self.unsent = lambda: 0
        self.kept = 0  # what was unsent when it was told that its peer has gone

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send({"type": "websocket.accept"})
        try:
            while True:
                send(TEXT)
                self.count += 1
        except Disconnected:
            self.kept = self.unsent()
            self.heard.append(receive())
            self.gone.set()


def drained(browser: Browser) -> tuple[int | None, str | None]:
    """What closes, after all the texts."""
    while (frame := browser.next()).opcode is Opcode.TEXT:
        pass
    assert frame.opcode is Opcode.CLOSE
    received = browser.protocol.close_rcvd
    assert received is not None
    return received.code, received.reason


def test_after_slow_seconds_a_websocket_is_closed_with_1013() -> None:
    talker = Talker()
    with serving(talker, slow_seconds=0.05) as server, Browser(server) as browser:
        talker.gone.wait()
        assert [(event["type"], event["code"]) for event in talker.heard] == [
            ("websocket.disconnect", 1013)
        ]
        assert drained(browser) == (1013, "too slow")
        assert server.counters().slow_clients == 1


def test_over_slow_bytes_a_websocket_is_closed_with_1013_and_send_never_blocks() -> None:
    talker = Talker()
    kept = 1 << 20
    with serving(talker, slow_bytes=kept) as server:
        talker.unsent = lambda: server.unsent
        with Browser(server) as browser:
            talker.gone.wait()
            assert kept < talker.kept < kept + 200_000
            assert drained(browser) == (1013, "too slow")


def test_what_slow_bytes_keeps_arrives_when_the_client_reads_after_all() -> None:
    count = 100
    done = Signal()

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send({"type": "websocket.accept"})
        for _ in range(count):
            send(TEXT)
        done.set()
        receive()

    with serving(application, slow_bytes=count * 66_000) as server, Browser(server) as browser:
        done.wait()  # all is said, though nothing is read
        for _ in range(count):
            assert len(browser.hear()) == 65536


def test_a_slow_client_that_never_reads_is_dropped_and_its_memory_freed() -> None:
    talker = Talker()
    with serving(talker, slow_bytes=1 << 20, close_seconds=0.05) as server, Browser(server):
        talker.gone.wait()
        eventually(lambda: not server.open_connections)
        assert server.unsent == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"slow_seconds": 0.05},
        {"slow_bytes": 1000},
        {"slow_seconds": 0.05, "slow_bytes": 1 << 20},
    ],
    ids=repr,
)
def test_a_coroutine_that_says_no_more_has_slow_clients_too(settings: dict[str, Any]) -> None:
    """It stops with the first message that the kernel does not take, and does not wait for it."""

    async def application(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not server.unsent:
            await send({"type": "websocket.send", "text": "x" * 8192})
            await asyncio.sleep(0.001)  # a round of the hub
        heard.append((await receive())["code"])

    heard: list[int] = []
    with serving(adapt(application), **settings) as server, Browser(server) as browser:
        eventually(lambda: server.counters().slow_clients)
        eventually(lambda: heard == [1013])
        assert drained(browser) == (1013, "too slow")


@pytest.mark.parametrize("settings", [{}, {"slow_seconds": 60}], ids=repr)
def test_nobody_waits_for_what_a_coroutine_has_given_up(settings: dict[str, Any]) -> None:
    async def application(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                while True:
                    await send(body(b"x" * 8192, more=True))

    with (
        serving(adapt(application), **settings) as server,
        Peer(server, b"GET / HTTP/1.0\r\n\r\n"),
    ):
        eventually(lambda: server.unsent)
        eventually(lambda: not server.open_connections)


def test_the_end_of_a_coroutines_answer_waits_no_longer_than_slow_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def send(real: socket.socket, data: bytes) -> int:
        raise BlockingIOError  # the kernel takes nothing

    let_servers_send_by(monkeypatch, send)
    application = adapt(hello_of_a_coroutine)
    with serving(application, slow_seconds=0.05) as server, Peer(server, GET):
        eventually(lambda: server.unsent)
        eventually(lambda: not server.open_connections)


def test_other_clients_are_not_affected() -> None:
    talker = Talker()

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        (echo if scope["path"] == "/echo" else talker)(scope, receive, send)

    with serving(application) as server, Browser(server), Browser(server, "/echo") as other:
        eventually(lambda: talker.count and server.unsent)
        for _ in range(100):
            other.say("a")
            assert other.hear() == "a"
        assert server.unsent <= len(TEXT["text"]) + 10  # blocked: memory is flat


def test_a_response_is_cut_off_after_slow_seconds() -> None:
    gone = Signal()

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(start())
        try:
            while True:
                send(body(b"x" * 65536, more=True))
        except Disconnected:
            gone.set()
            raise

    with serving(application, slow_seconds=0.05) as server, Peer(server, GET) as peer:
        gone.wait()
        eventually(lambda: not server.open_connections)
        assert not peer.read_all().endswith(b"0\r\n\r\n")
