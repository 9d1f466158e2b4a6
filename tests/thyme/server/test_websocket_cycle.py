"""One WebSocket, over a real socket: opening, messages, every way to end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import websocket as websocket_client
from gevent.event import Event as Signal
from websockets.exceptions import InvalidStatus
from websockets.frames import Opcode

from tests.thyme.serving import (
    DEADLINE,
    KEY,
    Browser,
    Peer,
    body,
    echo,
    eventually,
    serving,
    settled,
    start,
)
from thyme.asgi import Application, Event, Receive, Scope, Send, Transport
from thyme.errors import ApplicationError, Disconnected

UPGRADE = (
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()
ACCEPT: Event = {"type": "websocket.accept"}


def message(text: str) -> Event:
    return {"type": "websocket.send", "text": text}


def refused(browser: Browser) -> tuple[int, bytes]:
    error = browser.protocol.handshake_exc
    assert isinstance(error, InvalidStatus), error
    return error.response.status_code, bytes(error.response.body or b"")


# Opening.


def test_a_websocket_opens_and_echoes() -> None:
    with serving(echo) as server, Browser(server) as browser:
        for text in ("a", "grüß", "x" * 100_000):
            browser.say(text)
            assert browser.hear() == text


def test_frames_sent_with_the_handshake_are_not_lost() -> None:
    frame = b"\x81\x83\0\0\0\0abc"
    with serving(echo) as server, Peer(server, UPGRADE + frame) as peer:
        assert peer.read_until(b"\x81\x03abc").startswith(b"HTTP/1.1 101 ")


def test_a_websocket_may_follow_requests_on_its_connection() -> None:
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with serving(echo) as server, Peer(server, get + UPGRADE) as peer:
        assert b"\r\nHTTP/1.1 101 " in peer.read_until(b"Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")


def test_the_first_event_is_connect_and_the_scope_has_the_path() -> None:
    seen: list[Any] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([scope["type"], scope["path"], scope["query_string"], receive()])
        send(ACCEPT)

    with serving(application) as server, Browser(server, "/chat/?a=b") as browser:
        browser.closed()
    assert seen == ["websocket", "/chat/", b"a=b", {"type": "websocket.connect"}]


def closing(event: Event) -> Any:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send(event)
        assert receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}

    return application


def test_a_close_before_accept_is_403_asgi() -> None:
    with serving(closing({"type": "websocket.close"})) as server, Browser(server) as browser:
        assert refused(browser)[0] == 403


def test_an_application_that_returns_before_accept_is_403() -> None:
    with serving(lambda scope, receive, send: None) as server, Browser(server) as browser:
        assert refused(browser)[0] == 403


def test_an_application_that_raises_before_accept_is_500(caplog: pytest.LogCaptureFixture) -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("oops")

    with serving(application) as server, Browser(server) as browser:
        assert refused(browser)[0] == 500
    assert "ValueError: oops" in caplog.text


def test_the_application_may_refuse_with_its_own_response_asgi() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        for event in (start(401, (b"x", b"y")), body(b"log ", more=True), body(b"in")):
            send({**event, "type": f"websocket.{event['type']}"})
        assert receive() == {"type": "websocket.connect"}
        assert receive()["type"] == "websocket.disconnect"

    with serving(application) as server, Peer(server, UPGRADE) as peer:
        answer = peer.read_all()
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\nx: y\r\n")
    assert answer.endswith(b"4\r\nlog \r\n2\r\nin\r\n0\r\n\r\n")


def test_a_bad_handshake_does_not_reach_the_application_rfc_6455_4_2_2() -> None:
    called: list[Scope] = []
    bad = UPGRADE.replace(KEY.encode(), b"short")
    application = lambda scope, receive, send: called.append(scope)  # noqa: E731
    with serving(application) as server, Peer(server, bad) as peer:
        assert peer.read_all().startswith(b"HTTP/1.1 400 ")
    assert called == []


def test_another_version_is_426_with_the_one_that_is_spoken_rfc_6455_4_4() -> None:
    bad = UPGRADE.replace(b"Version: 13", b"Version: 8")
    with serving(echo) as server, Peer(server, bad) as peer:
        answer = peer.read_all()
    assert answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"\r\nsec-websocket-version: 13\r\n" in answer


def test_a_peer_that_leaves_before_accept_is_a_disconnect() -> None:
    events: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        events.extend([receive(), receive()])
        with pytest.raises(Disconnected):
            send(ACCEPT)
        events.append(receive())

    with serving(application) as server:
        Peer(server, UPGRADE).socket.close()
        eventually(lambda: len(events) == 3)
    assert [event["type"] for event in events[1:]] == ["websocket.disconnect"] * 2


def test_frames_sent_before_the_answer_wait_for_it() -> None:
    """RFC 6455 4.1: the peer is to wait; a pong before the 101 would be no HTTP."""
    ping = b"\x89\x83\0\0\0\0abc"

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        reader = gevent.spawn(receive)
        gevent.sleep(0.01)
        send(ACCEPT)
        send(message(reader.get()["text"]))

    with serving(application) as server, Peer(server, UPGRADE + ping) as peer:
        peer.send(ping + b"\x81\x82\0\0\0\0hi")
        assert peer.read_until(b"\x81\x02hi").startswith(b"HTTP/1.1 101 ")


def test_a_wrong_response_of_its_own_is_an_error_and_then_500() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send({"type": "websocket.http.response.start", "status": "no"})

    with serving(application) as server, Browser(server) as browser:
        assert refused(browser)[0] == 500


# Messages.


def test_a_ping_is_answered_while_the_application_receives_rfc_6455_5_5_2() -> None:
    with serving(echo) as server, Browser(server) as browser:
        browser.protocol.send_ping(b"abc")
        browser.flush()
        frame = browser.next()
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, b"abc")


def test_several_greenlets_may_send_and_their_messages_stay_whole() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(ACCEPT)
        texts = [letter * 100_000 for letter in "abcdef"]
        gevent.joinall([gevent.spawn(send, message(text)) for text in texts], raise_error=True)

    with serving(application) as server, Browser(server) as browser:
        heard = {browser.hear() for _ in range(6)}
    assert heard == {letter * 100_000 for letter in "abcdef"}


def test_one_greenlet_may_receive_while_another_sends() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send(ACCEPT)
        reader = gevent.spawn(receive)
        send(message("ready"))
        send(message(reader.get()["text"]))

    with serving(application) as server, Browser(server) as browser:
        assert browser.hear() == "ready"
        browser.say("x")
        assert browser.hear() == "x"


def test_a_killed_receive_loses_no_message() -> None:
    heard: list[str] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send(ACCEPT)
        while True:
            event = None
            with gevent.Timeout(0.001, False):
                event = receive()
            if event is None:
                continue
            if event["type"] == "websocket.disconnect":
                return
            heard.append(event["text"])

    texts = [str(number) * (1 + number * 37) for number in range(40)]
    with serving(application) as server, Browser(server) as browser:
        for text in texts:
            browser.protocol.send_text(text.encode())
            for data in browser.protocol.data_to_send():
                half = len(data) // 2
                for piece in (data[:half], data[half:]):
                    browser.send(piece)
                    gevent.sleep(0.001)
        eventually(lambda: len(heard) == len(texts))
    assert heard == texts


def test_an_application_that_does_not_receive_stops_the_peer() -> None:
    go_on = Signal()

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(ACCEPT)
        go_on.wait()
        echo(scope, receive, lambda event: None)

    with serving(application) as server, Browser(server) as browser:
        for _ in range(300):
            browser.protocol.send_binary(bytes(100_000))
        sender = gevent.spawn(browser.flush)
        gevent.sleep(0.05)
        assert not sender.ready()
        go_on.set()
        sender.get()


def test_a_browser_that_does_not_read_blocks_send_and_nobody_else() -> None:
    sent: list[int] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/echo":
            echo(scope, receive, send)
        send(ACCEPT)
        while True:
            send(message("x" * 65536))
            sent.append(1)

    with serving(application) as server, Browser(server) as deaf:
        blocked_at = settled(lambda: len(sent))
        with Browser(server, "/echo") as other:
            other.say("x")
            assert other.hear() == "x"
        assert len(sent) == blocked_at
        deaf.reset()


@pytest.mark.parametrize(
    "event",
    [
        message("x"),
        {"type": "http.response.start", "status": 200},
        {"type": "nonsense"},
    ],
)
def test_wrong_events_before_accept_say_what_was_expected(event: Event) -> None:
    errors: list[str] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(ApplicationError) as caught:
            send(event)
        errors.append(str(caught.value))
        send(ACCEPT)

    with serving(application) as server, Browser(server) as browser:
        assert browser.closed() == (1000, "")
    assert "expected" in errors[0]


class OnTransport(Application):
    """An application that is given its transport."""

    def __init__(self, function: Callable[[Transport], None]) -> None:
        self.function = function

    def serve(self, scope: Scope, transport: Transport) -> None:
        self.function(transport)


def test_messages_that_are_coalesced_go_out_in_one_piece_and_in_order() -> None:
    sent: list[int] = []

    def talk(transport: Transport) -> None:
        transport.send(ACCEPT)
        for transport.coalesce in (True, False):
            sent.append(server.counters().bytes_sent)
            transport.send(message("a"))
            sent.append(server.counters().bytes_sent)
            transport.send(message("b"))
            gevent.sleep(0)
        sent.append(server.counters().bytes_sent)
        transport.receive()
        transport.receive()

    with serving(OnTransport(talk)) as server, Browser(server) as browser:
        assert [browser.hear() for _ in range(4)] == ["a", "b", "a", "b"]
    opened, gathered, after_a_round, at_once, end = sent
    size = len(b"\x81\x01a")
    assert [each - opened for each in (gathered, after_a_round, at_once, end)] == [
        0, 2 * size, 3 * size, 4 * size
    ]  # fmt: skip


def test_a_close_follows_what_was_coalesced() -> None:
    def talk(transport: Transport) -> None:
        transport.send(ACCEPT)
        assert transport.send_nowait(message("a"))
        transport.send({"type": "websocket.close", "code": 4001})

    with serving(OnTransport(talk)) as server, Browser(server) as browser:
        assert browser.hear() == "a"
        assert browser.closed() == (4001, "")


# The end.


def test_the_browsers_close_reaches_the_application_with_code_and_reason() -> None:
    events: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send(ACCEPT)
        events.extend([receive(), receive()])
        with pytest.raises(Disconnected):
            send(message("late"))
        send({"type": "websocket.close"})  # no mistake: it is closed already

    with serving(application) as server, Browser(server) as browser:
        browser.protocol.send_close(3001, "bye")
        browser.flush()
        assert browser.closed() == (3001, "bye")  # RFC 6455 5.5.1: echoed
    assert events == [{"type": "websocket.disconnect", "code": 3001, "reason": "bye"}] * 2


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_browser_that_vanishes_is_1006(end: str) -> None:
    events: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send(ACCEPT)
        events.append(receive())

    with serving(application) as server:
        browser = Browser(server)
        browser.reset() if end == "reset" else browser.socket.close()
        eventually(lambda: events)
    assert events == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


def test_the_applications_close_reaches_the_browser_and_then_the_application() -> None:
    events: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send(ACCEPT)
        send({"type": "websocket.close", "code": 4000, "reason": "why"})
        with pytest.raises(Disconnected):
            send(message("late"))
        events.append(receive())

    with serving(application) as server, Browser(server) as browser:
        assert browser.closed() == (4000, "why")
    assert events == [{"type": "websocket.disconnect", "code": 4000, "reason": "why"}]


def test_an_application_that_returns_closes_with_1000() -> None:
    application = lambda scope, receive, send: send(ACCEPT)  # noqa: E731
    with serving(application) as server, Browser(server) as browser:
        assert browser.closed() == (1000, "")


def test_an_application_that_raises_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(ACCEPT)
        raise ValueError("oops")

    with serving(application) as server, Browser(server) as browser:
        assert browser.closed() == (1011, "")
    assert "ValueError: oops" in caplog.text


def test_an_application_that_gives_up_on_a_gone_browser_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "thyme")
    ended: list[bool] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(ACCEPT)
        try:
            while True:
                send(message("x" * 65536))
        finally:
            ended.append(True)

    with serving(application) as server:
        Browser(server).reset()
        eventually(lambda: ended)
    assert [record.name for record in caplog.records if record.name == "thyme.server"] == []


@pytest.mark.parametrize("closes", [True, False])
def test_a_browser_that_never_answers_our_close_is_let_go_after_a_time(closes: bool) -> None:
    """Also when another greenlet of the application was in receive() when the close was sent."""
    events: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send(ACCEPT)
        reader = gevent.spawn(lambda: events.append(receive()))
        gevent.sleep(0)
        if closes:
            send({"type": "websocket.close"})
            reader.join()

    with serving(application, close_seconds=0.01) as server, Peer(server, UPGRADE) as peer:
        assert peer.read_all().endswith(b"\x88\x02\x03\xe8")
        eventually(lambda: events)
    assert events == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


def test_a_failure_of_the_protocol_reaches_both_sides_rfc_6455_7_1_7() -> None:
    events: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send(ACCEPT)
        events.append(receive())

    with serving(application, message_bytes=1000) as server, Browser(server) as browser:
        browser.protocol.send_binary(bytes(1_000_000))
        browser.flush()
        assert browser.closed()[0] == 1009
    assert [(event["type"], event["code"]) for event in events] == [("websocket.disconnect", 1009)]


def test_websocket_client_talks_to_it_too() -> None:
    """Another implementation, blocking, in a native thread of its own."""
    with serving(echo) as server:
        heard: list[Any] = []
        url = f"ws://127.0.0.1:{server.address[1]}/"

        def talk() -> None:
            client = websocket_client.create_connection(url, timeout=DEADLINE)
            client.send("grüß")
            heard.append(client.recv())
            client.send_binary(b"\0\xff")
            heard.append(client.recv())
            client.ping(b"x")
            client.close(1000)

        thread = threading.Thread(target=talk)
        thread.start()
        eventually(lambda: not thread.is_alive())
    assert heard == ["grüß", b"\0\xff"]
