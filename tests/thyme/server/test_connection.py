"""One connection, over a real socket: requests in turn, refusals, time limits, the protocol."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import gevent
import pytest

from tests.thyme.serving import (
    HTTPPeer,
    Peer,
    body,
    echo,
    hello,
    hello_of_a_coroutine,
    serving,
    start,
)
from thyme.asgi import Event, Receive, Scope, Send
from thyme.config import Config
from thyme.loop.bridge import adapt
from thyme.protocol.http import END, HTTPEvent, HTTPProtocol, Refusal, Request
from thyme.server import connection

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def status_of(data: bytes) -> bytes:
    return data[9:12]


# Requests in turn.


def test_a_connection_serves_request_after_request_rfc_9112_9_3() -> None:
    with serving(hello) as server, HTTPPeer(server) as peer:
        for path in ("/a", "/b", "/c"):
            peer.ask(target=path)
            assert peer.answer() == (200, b"hello " + path.encode())


def test_connection_close_is_obeyed_rfc_9112_9_6() -> None:
    with serving(hello) as server, Peer(server, CLOSING) as peer:
        assert b"\r\nconnection: close\r\n" in peer.read_all()


def test_http_1_0_is_answered_and_closed() -> None:
    with serving(hello) as server, Peer(server, b"GET / HTTP/1.0\r\n\r\n") as peer:
        assert peer.read_all().startswith(b"HTTP/1.1 200 OK\r\n")


def test_http_1_0_may_keep_the_connection() -> None:
    request = b"GET /%d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    with serving(hello) as server, Peer(server, request % 1) as peer:
        peer.read_until(b"hello /1")
        peer.send(request % 2)
        assert b"\r\nconnection: keep-alive\r\n" in peer.read_until(b"hello /2")


def test_pipelined_requests_are_answered_in_order_rfc_9112_9_3_2() -> None:
    count = 100
    requests = b"".join(GET % number for number in range(count))
    with serving(hello) as server, Peer(server, requests + CLOSING) as peer:
        answers = peer.read_all()
    paths = [part.split(b"HTTP/1.1")[0] for part in answers.split(b"\r\n\r\nhello ")[1:]]
    assert paths == [b"/%d" % number for number in range(count)] + [b"/"]


def test_requests_that_come_in_pieces_of_one_byte() -> None:
    with serving(echo) as server, Peer(server) as peer:
        for byte in b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc":
            peer.send(bytes([byte]))
            gevent.sleep(0)
        assert peer.read_until(b"abc").startswith(b"HTTP/1.1 200 OK")


def test_the_scope_names_both_ends() -> None:
    scopes: list[Scope] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        hello(scope, receive, send)

    with serving(application, root_path="/m") as server, HTTPPeer(server) as peer:
        peer.ask(target="/x")
        assert peer.answer() == (200, b"hello /m/x")
        assert scopes[0]["client"] == peer.socket.getsockname()
        assert scopes[0]["server"] == server.address


def test_coroutines_answer_pipelined_requests_in_order() -> None:
    async def tell(scope: Scope, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(scope["path"].encode()))

    requests = b"".join(GET % number for number in range(20))
    with serving(adapt(tell)) as server, Peer(server, requests + CLOSING) as peer:
        answers = peer.read_all()
    assert re.findall(rb"\r\n\r\n/(\d+)", answers) == [b"%d" % number for number in range(20)]


# Refusals on the wire.


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: cake\r\n\r\n", b"417"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 101 + b"\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", b"413"),
    ],
)
def test_what_is_refused_is_answered_and_closed(data: bytes, status: bytes) -> None:
    called: list[Scope] = []
    application = lambda scope, receive, send: called.append(scope)  # noqa: E731
    with serving(application, body_bytes=100) as server, Peer(server, data) as peer:
        assert status_of(peer.read_all()) == status
    assert called == []


def test_a_refusal_reaches_a_peer_that_goes_on_sending_rfc_9112_9_6() -> None:
    with serving(hello, body_bytes=100) as server, Peer(server) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        peer.send(bytes(1_000_000))
        assert status_of(peer.read_all()) == b"413"


# Time.


def test_a_head_that_takes_too_long_is_408_rfc_9110_15_5_9() -> None:
    with serving(hello, head_seconds=0.01) as server, Peer(server, b"GET / HT") as peer:
        assert status_of(peer.read_all()) == b"408"


def test_an_idle_connection_is_not_408() -> None:
    with serving(hello, head_seconds=0.01) as server, Peer(server) as peer:
        gevent.sleep(0.05)
        peer.send(GET % 1)
        assert status_of(peer.read_until(b"hello /1")) == b"200"


def test_keep_alive_time_ends_an_idle_connection_without_a_word() -> None:
    with serving(hello, keep_alive_seconds=0.3) as server, Peer(server, GET % 1) as peer:
        assert peer.read_all().endswith(b"hello /1")


# The seam for HTTP: see `protocol/http.py`.


class HTTP09:
    """HTTP/0.9 (https://www.w3.org/Protocols/HTTP/AsImplemented.html): a line in, a body out."""

    def __init__(self) -> None:
        self.events: deque[HTTPEvent] = deque()
        self.leftover = b""
        self._line = b""

    def feed(self, data: bytes) -> None:
        self._line += data
        if self._line.endswith(b"\r\n"):
            method, _, path = self._line.strip().partition(b" ")
            if method == b"GET":
                self.events += [Request("GET", path, b"", "0.9", [], keep_alive=False), END]
            else:
                self.events.append(Refusal(400, "GET only"))

    def respond_to(self, request: Request) -> Body09:
        return Body09()

    def refuse(self, refusal: Refusal) -> bytes:
        return refusal.reason.encode()


class Body09:
    """A response without a head."""

    begun = complete = keep_alive = False
    status = 0

    def encode(self, event: Event) -> bytes:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            return b""
        self.begun, self.complete = True, not event.get("more_body")
        return bytes(event["body"])

    def encode_hint(self, event: Event) -> bytes:
        return b""

    def encode_continue(self) -> bytes:
        return b""

    def expect_length(self, length: int) -> None:
        """No-op: the end of the connection is the end of the body."""


@pytest.mark.parametrize(
    ("line", "answer"), [(b"GET /x\r\n", b"hello /x"), (b"PUT /x\r\n", b"GET only")]
)
@pytest.mark.parametrize("application", [hello, adapt(hello_of_a_coroutine)])
def test_another_http_protocol_needs_nothing_but_the_seam(
    application: Any, line: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(config: Config) -> HTTPProtocol:
        return HTTP09()

    monkeypatch.setattr(connection, "choose_protocol", choose)
    with serving(application) as server, Peer(server, line[:3]) as peer:
        gevent.sleep(0)
        peer.send(line[3:])
        assert peer.read_all() == answer
