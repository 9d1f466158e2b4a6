"""One request, over a real socket: its body, its response, failures, ASGI's extensions."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import gevent
import h11
import pytest
from gevent.event import Event as Signal

from tests.thyme.serving import (
    HTTPPeer,
    Peer,
    body,
    echo,
    eventually,
    hello,
    hello_of_a_coroutine,
    let_servers_send_by,
    serving,
    settled,
    start,
)
from thyme.asgi import Event, Receive, Scope, Send
from thyme.config import DRAIN_BYTES
from thyme.errors import ApplicationError, Disconnected
from thyme.loop.bridge import adapt

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def status_of(data: bytes) -> bytes:
    return data[9:12]


def kernel_full(monkeypatch: pytest.MonkeyPatch, since: bytes) -> Callable[[], None]:
    """Let the kernel take no bytes that end with `since`, until what this returns is called."""
    released = Signal()

    def send(real: socket.socket, data: bytes) -> int:
        if data.endswith(since) and not released.is_set():
            raise BlockingIOError
        return real.send(data)

    let_servers_send_by(monkeypatch, send)
    return released.set


# Bodies.


def test_a_body_streams_both_ways() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(start())
        while (event := receive())["more_body"]:
            send(body(event["body"], more=True))
        send(body(event["body"]))

    with serving(application) as server, HTTPPeer(server) as peer:
        peer.send_head("POST", transfer_encoding="chunked")
        for piece in (b"one", b"two"):
            peer.send(peer.oracle.send(h11.Data(piece)) or b"")
            head = peer.next()
            while not isinstance(head, h11.Data):
                head = peer.next()
            assert bytes(head.data) == piece
        peer.send(peer.oracle.send(h11.EndOfMessage()) or b"")
        assert isinstance(peer.next(), h11.EndOfMessage)


def test_a_large_body_arrives_whole() -> None:
    content = bytes(range(256)) * 8192
    with serving(echo) as server, Peer(server) as peer:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        sender = gevent.spawn(peer.send, head % len(content) + content)
        assert peer.read_all().endswith(b"\r\n\r\n" + content)
        sender.get()


def test_an_application_that_does_not_receive_stops_the_peer() -> None:
    """Back-pressure: what is not received stays in the kernels' buffers."""
    go_on, received = Signal(), []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        go_on.wait()
        while (event := receive())["more_body"]:
            received.append(len(event["body"]))
        send(start())
        send(body())

    size = 50_000_000
    with serving(application) as server, Peer(server) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        sender = gevent.spawn(peer.send, bytes(size))
        gevent.sleep(0.05)
        assert not sender.ready()
        go_on.set()
        assert peer.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        sender.get()


def test_a_slow_reader_blocks_send() -> None:
    sent: list[int] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(start())
        for _ in range(1000):
            send(body(bytes(65536), more=True))
            sent.append(65536)
        send(body())

    with serving(application) as server, Peer(server, CLOSING) as peer:
        peer.read(1)
        assert settled(lambda: len(sent)) < 1000
        peer.read_all()
        assert len(sent) == 1000


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


EXPECTING = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", CLOSING], ids=["keep-alive", "close"]
)
def test_the_end_of_a_coroutines_answer_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch, request_bytes: bytes
) -> None:
    """It has returned when the kernel takes no more, also beyond the keep-alive time."""
    release = kernel_full(monkeypatch, b"hello /")
    application = adapt(hello_of_a_coroutine)
    with (
        serving(application, keep_alive_seconds=0.01) as server,
        Peer(server, request_bytes) as peer,
    ):
        eventually(lambda: server.unsent)
        gevent.sleep(0.1)
        assert server.unsent
        release()
        assert peer.read_all().endswith(b"hello /")


def test_100_continue_is_said_when_the_application_first_reads_rfc_9110_10_1_1() -> None:
    with serving(echo) as server, Peer(server, EXPECTING) as peer:
        assert peer.read(len(CONTINUE)) == CONTINUE
        peer.send(b"abc")
        assert peer.read_until(b"abc").startswith(b"HTTP/1.1 200")


def test_100_continue_is_not_said_when_the_body_is_there_already_rfc_9110_10_1_1() -> None:
    with serving(echo) as server, Peer(server, EXPECTING + b"abc") as peer:
        assert peer.read_until(b"abc").startswith(b"HTTP/1.1 200")


def test_an_application_that_does_not_read_ends_an_expecting_connection() -> None:
    """RFC 9110 10.1.1: nobody knows whether the body will come, so nothing can follow."""
    with serving(hello) as server, Peer(server, EXPECTING) as peer:
        assert status_of(peer.read_all()) == b"200"


def test_a_body_that_was_not_read_is_drained_and_the_connection_kept() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    with serving(hello) as server, Peer(server, post + CLOSING) as peer:
        assert peer.read_all().count(b"HTTP/1.1 200") == 2


def test_a_body_that_is_too_much_to_drain_ends_the_connection() -> None:
    size = 100 * DRAIN_BYTES
    with serving(hello) as server, Peer(server) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        sender = gevent.spawn(peer.send, bytes(DRAIN_BYTES * 2))
        assert peer.read_all().count(b"HTTP/1.1 200") == 1
        sender.kill()


# What receive() returns after the body.


def receiving(events: list[Event], *, then: Callable[[], None] = lambda: None) -> Any:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        events.append(receive())
        events.append(receive())
        then()
        send(start())
        send(body())

    return application


@pytest.mark.parametrize("end", ["close", "reset"])
def test_receive_blocks_after_the_body_until_the_peer_has_gone(end: str) -> None:
    events: list[Event] = []
    with serving(receiving(events)) as server:
        peer = Peer(server, GET % 1)
        eventually(lambda: len(events) == 1)
        assert events == [{"type": "http.request", "body": b"", "more_body": False}]
        getattr(peer, "reset")() if end == "reset" else peer.socket.close()  # noqa: B009
        eventually(lambda: len(events) == 2)
        assert events[1] == {"type": "http.disconnect"}


def test_receive_is_woken_when_another_greenlet_completes_the_response() -> None:
    events: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        watcher = gevent.spawn(lambda: events.append(receive()))
        gevent.sleep(0)
        send(start())
        send(body())
        watcher.join()

    with serving(application) as server, HTTPPeer(server) as peer:
        for _ in range(2):
            peer.ask()
            assert peer.answer() == (200, b"")
    assert events == [{"type": "http.disconnect"}] * 2


def test_a_killed_receive_loses_nothing() -> None:
    """Django listens for the disconnect, and stops listening, in every request."""

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        watcher = gevent.spawn(receive)
        gevent.sleep(0.01)
        watcher.kill()
        hello(scope, receive, send)

    with serving(application) as server, Peer(server, GET % 1) as peer:
        gevent.sleep(0.005)
        peer.send(GET % 2 + CLOSING)
        assert peer.read_all().count(b"HTTP/1.1 200") == 3


def test_a_receive_killed_inside_the_body_loses_nothing() -> None:
    contents = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        content, more = b"", True
        while more:
            with gevent.Timeout(0.001, False):
                event = receive()
                content += event["body"]
                more = event["more_body"]
        contents.append(content)
        hello(scope, receive, send)

    with serving(application) as server, Peer(server) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        for digit in b"0123456789":
            gevent.sleep(0.002)
            peer.send(bytes([digit]))
        peer.read_until(b"hello /")
    assert contents == [b"0123456789"]


def test_a_receive_left_behind_takes_nothing_of_the_next_request() -> None:
    left: list[gevent.Greenlet] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        left.append(gevent.spawn(receive))
        gevent.sleep(0)
        hello(scope, receive, send)

    with serving(application) as server, HTTPPeer(server) as peer:
        for number in range(5):
            peer.ask(target=f"/{number}")
            assert peer.answer() == (200, b"hello /%d" % number)
        assert [greenlet.get() for greenlet in left] == [{"type": "http.disconnect"}] * 5


def test_a_send_left_behind_writes_nothing_into_the_next_response() -> None:
    sends: list[Send] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        sends.append(send)
        hello(scope, receive, send)

    with serving(application) as server, HTTPPeer(server) as peer:
        peer.ask()
        peer.answer()
        with pytest.raises(Disconnected):
            sends[0](start())


# Failures.


def raising(error: BaseException, *events: Event) -> Any:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        for event in events:
            send(event)
        raise error

    return application


def test_an_application_that_raises_before_its_response_is_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(raising(ValueError("oops"), start())) as server, Peer(server, GET % 1) as peer:
        answer = peer.read_all()
    assert status_of(answer) == b"500"
    assert b"oops" not in answer
    assert "ValueError: oops" in caplog.text


def test_an_application_that_raises_inside_its_response_cuts_it_off() -> None:
    application = raising(ValueError("oops"), start(), body(b"abc", more=True))
    with serving(application) as server, Peer(server, GET % 1) as peer:
        assert peer.read_all().endswith(b"\r\n\r\n3\r\nabc\r\n")  # no last chunk


def test_an_application_that_returns_without_a_response_is_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(lambda scope, receive, send: None) as server, Peer(server, GET % 1) as peer:
        assert status_of(peer.read_all()) == b"500"
    assert "without completing" in caplog.text


def test_an_application_that_returns_inside_its_response_cuts_it_off() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(start(200, (b"content-length", b"10")))
        send(body(b"abc", more=True))

    with serving(application) as server, Peer(server, GET % 1) as peer:
        assert peer.read_all().endswith(b"\r\n\r\nabc")


def test_wrong_events_are_the_applications_error(caplog: pytest.LogCaptureFixture) -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(ApplicationError, match=r"expected 'http\.response\.start'"):
            send(body())
        hello(scope, receive, send)

    with serving(application) as server, HTTPPeer(server) as peer:
        peer.ask()
        assert peer.answer() == (200, b"hello /")


def test_sending_to_a_peer_that_has_gone_is_disconnected_and_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[Exception] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(start())
        try:
            while True:
                send(body(bytes(65536), more=True))
        except OSError as error:
            seen.append(error)
            raise

    with serving(application) as server:
        peer = Peer(server, GET % 1)
        peer.read(1)
        peer.reset()
        eventually(lambda: seen)
    assert isinstance(seen[0], Disconnected)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("piece", "status"), [(b"zz\r\n", b"400"), (b"65\r\n" + bytes(101) + b"\r\n", b"413")]
)
def test_a_body_that_goes_wrong_is_a_disconnect_and_then_refused(
    piece: bytes, status: bytes
) -> None:
    events: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        while (event := receive())["type"] == "http.request":
            events.append(event)

    post = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with serving(application, body_bytes=100) as server, Peer(server, post) as peer:
        eventually(lambda: events)
        peer.send(piece)
        assert status_of(peer.read_all()) == status


def test_a_peer_that_leaves_inside_the_body_is_a_disconnect() -> None:
    events: list[Event] = []
    with serving(receiving(events)) as server:
        with Peer(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"):
            eventually(lambda: events)
        eventually(lambda: len(events) == 2)
    assert events[0] == {"type": "http.request", "body": b"abc", "more_body": True}
    assert events[1] == {"type": "http.disconnect"}


# ASGI's extensions.


def test_early_hints_come_before_the_response_rfc_8297() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.early_hint" in scope["extensions"]
        send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        send(start())
        send(body(b"ok"))

    with serving(application) as server, HTTPPeer(server) as peer:
        peer.ask()
        hint = peer.next()
        assert (hint.status_code, list(hint.headers)) == (
            103,
            [(b"link", b"</a.css>; rel=preload")],
        )
        assert peer.answer() == (200, b"ok")


def test_early_hints_are_not_for_http_1_0_rfc_9110_15_2() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send({"type": "http.response.early_hint", "links": [b"</a.css>"]})
        send(start())
        send(body(b"ok"))

    with serving(application) as server, Peer(server, b"GET / HTTP/1.0\r\n\r\n") as peer:
        assert peer.read_all().startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("size", [0, 1, 65536, 200_000])
def test_a_file_is_sent_by_its_path(size: int, tmp_path: object) -> None:
    path = f"{tmp_path}/file"
    content = bytes(index % 251 for index in range(size))
    with open(path, "wb") as file:
        file.write(content)

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(start())
        send({"type": "http.response.pathsend", "path": path})

    with serving(application) as server, HTTPPeer(server) as peer:
        peer.ask()
        assert peer.answer() == (200, content)
        peer.ask()
        head = peer.next()
        assert (b"content-length", b"%d" % size) in list(head.headers)


def test_a_file_that_is_not_there_is_a_500() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(start())
        send({"type": "http.response.pathsend", "path": "/nowhere/at/all"})

    with serving(application) as server, HTTPPeer(server) as peer:
        peer.ask()
        assert peer.answer()[0] == 500
