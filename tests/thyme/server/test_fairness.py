"""A peer that always has something to say does not keep the others waiting: turns are counted.

The hub's rounds are what is counted, and no time is measured: all that a peer floods us with is in
the kernel before anything of it is read, and nobody else does anything, so whatever rounds the hub
makes meanwhile are turns that were given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from tests.thyme.server.test_tls import TLSPeer, client_context, self_signed
from tests.thyme.serving import KEY, Peer, body, serving, start
from thyme.asgi import Receive, Scope, Send
from thyme.config import READ_BYTES, WORK_PER_TURN
from thyme.server.server import Server

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % KEY.encode()
)
TEXT = b"\x81\x81\0\0\0\0a"
PING = b"\x89\x80\0\0\0\0"
FRAGMENT = b"\0\x80\0\0\0\0"
"""An empty one: RFC 6455 5.4 allows as many as one likes."""

MANY = 20 * WORK_PER_TURN


def round_of_the_hub() -> int:
    iteration: int = gevent.get_hub().loop.iteration
    return iteration


class Counting:
    """An application that waits until it is told to go on, and notes in which round it is called.

    `work`: how much was done in each round; `rounds`: how many there were until the end.
    """

    def __init__(self) -> None:
        self.go_on, self.done = Signal(), Signal()
        self.work: Counter[int] = Counter()
        self.began = self.rounds = 0

    def count(self) -> None:
        self.work[round_of_the_hub()] += 1

    def end(self) -> None:
        self.rounds = round_of_the_hub() - self.began
        self.done.set()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.go_on.wait()
        if scope["type"] == "http":
            self.count()
            while receive()["more_body"]:
                self.count()
            send(start())
            send(body(b"hello"))
            if scope["path"] == "/last":
                self.end()
        else:
            receive()
            send({"type": "websocket.accept"})
            while (event := receive())["text"] != "last":
                self.count()
                if event["text"] == "talk":
                    for _ in range(MANY):
                        send({"type": "websocket.send", "text": "a"})
            self.end()


@pytest.fixture(params=["plain", "TLS"])
def flood(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Sends bytes; when the server has done with them, the application that has counted."""
    options = {}
    if request.param == "TLS":
        options["certificate"] = self_signed(tmp_path / "both.pem")
    application = Counting()
    with serving(application, **options) as server:
        peers = []

        def flooded(data: bytes) -> Counting:
            peers.append(peer(server, options.get("certificate")))
            peers[0].send(data)
            application.began = round_of_the_hub()
            application.go_on.set()
            application.done.wait()
            return application

        yield flooded
        for each in peers:
            each.socket.close()


def peer(server: Server, certificate: str | None) -> Peer:
    return TLSPeer(server, client_context(certificate)) if certificate else Peer(server)


def test_pipelined_requests_take_turns_with_other_connections(flood: Any) -> None:
    counted = flood(GET * MANY + GET.replace(b"/", b"/last", 1))
    assert sum(counted.work.values()) == MANY + 1
    assert max(counted.work.values()) <= WORK_PER_TURN + 1


def test_a_flood_of_messages_takes_turns(flood: Any) -> None:
    counted = flood(UPGRADE + TEXT * MANY + b"\x81\x84\0\0\0\0last")
    assert sum(counted.work.values()) == MANY
    assert max(counted.work.values()) <= WORK_PER_TURN + 1


@pytest.mark.parametrize("frame", [PING, FRAGMENT])
def test_a_flood_of_frames_that_are_no_messages_takes_turns(flood: Any, frame: bytes) -> None:
    beginning = b"\x01\x80\0\0\0\0" if frame is FRAGMENT else b""
    end = b"\x80\x84\0\0\0\0last" if frame is FRAGMENT else b"\x81\x84\0\0\0\0last"
    counted = flood(UPGRADE + beginning + frame * MANY + end)
    assert not counted.work
    assert counted.rounds >= MANY / WORK_PER_TURN


def test_a_body_in_tiny_chunks_takes_turns(flood: Any) -> None:
    chunks = b"1\r\na\r\n" * (4 * READ_BYTES // len(b"1\r\na\r\n"))
    head = b"POST /last HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    counted = flood(head + chunks + b"0\r\n\r\n")
    assert counted.rounds >= 4


def test_an_application_that_talks_to_a_peer_that_reads_takes_turns(flood: Any) -> None:
    counted = flood(UPGRADE + b"\x81\x84\0\0\0\0talk" + b"\x81\x84\0\0\0\0last")
    assert counted.rounds >= MANY / WORK_PER_TURN
