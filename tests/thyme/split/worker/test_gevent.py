"""The worker on gevent, over a real Redis: what an application sees, and how a worker stops."""

from __future__ import annotations

import re

import gevent
import pytest

from tests.gredis.drivers.test_gevent import die
from tests.thyme.peer import CONNECT, HTTP, REQUEST, WEBSOCKET, Peer
from thyme.asgi import Application
from thyme.errors import Disconnected
from thyme.split.flow_control import WINDOW_EVENTS
from thyme.split.wire import EVENT_BYTES

HUGE = "x" * (EVENT_BYTES + 1)
SHORT_BUT_HUGE = "\N{GRINNING FACE}" * (EVENT_BYTES // 4 + 1)


def hello(scope, receive, send):
    send({"type": "http.response.start", "status": 200, "headers": []})
    send({"type": "http.response.body", "body": b"hello"})


def echo(scope, receive, send):
    assert receive() == {"type": "websocket.connect"}
    send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
    while (event := receive())["type"] == "websocket.receive":
        send({"type": "websocket.send", "text": event["text"]})
    left.put(event)


left: gevent.queue.Queue = gevent.queue.Queue()
"""The disconnects that `echo` has received."""


@pytest.fixture(autouse=True)
def _nobody_has_left():
    left.queue.clear()


def talk(application) -> Peer:
    peer = Peer(application, WEBSOCKET, CONNECT)
    assert peer.next()["type"] == "websocket.accept"
    return peer


def still_talks(peer: Peer) -> bool:
    peer.say("still here?")
    return peer.next() == {"type": "websocket.send", "text": "still here?"}


def leave(peer: Peer) -> None:
    peer.leave()
    peer.end()


def test_an_application_can_send_and_receive_without_blocking(server, start):
    """Through the transport, as the bridge and the consumers do."""

    class Direct(Application):
        def serve(self, scope, transport):
            received.append(transport.receive_nowait())
            received.append(transport.receive_nowait())
            transport.send({"type": "websocket.accept"})
            assert transport.send_nowait({"type": "websocket.send", "text": "at once"})
            received.append(transport.receive())

    received: list = []
    start(Direct())
    peer = talk(server)
    assert peer.next()["text"] == "at once"
    leave(peer)
    assert received == [CONNECT, None, {"type": "websocket.disconnect", "code": 1001}]


def test_a_transport_that_is_full_drains_when_the_peer_has_read(server, start):
    class Flood(Application):
        def serve(self, scope, transport):
            transport.receive()
            transport.send({"type": "websocket.accept"})
            while transport.send_nowait({"type": "websocket.send", "text": "x"}):
                pass
            transport.drain()
            transport.send({"type": "websocket.send", "text": "drained"})

    start(Flood())
    peer = talk(server)
    texts = [event["text"] for event in peer.end()]
    assert texts == ["x"] * (len(texts) - 1) + ["drained"]
    assert len(texts) > WINDOW_EVENTS / 2


def test_the_application_receives_a_disconnect_when_the_server_dies(server, start):
    start(echo)
    peer = Peer(server, WEBSOCKET, CONNECT)
    peer.next()
    die(server.crossbar)
    start(hello)
    assert left.get(timeout=30)["type"] == "websocket.disconnect"


def test_a_worker_that_stops_closes_its_websockets_with_1012(server, start):
    _, worker = start(echo)
    peer = Peer(server, WEBSOCKET, CONNECT)
    peer.next()
    worker.stop()
    assert left.get(timeout=30) == {"type": "websocket.disconnect", "code": 1012}
    assert peer.next() == {
        "type": "websocket.close",
        "code": 1012,
        "reason": "The worker is restarting",
    }
    peer.end()


def test_a_worker_that_stops_finishes_its_requests(server, start):
    begun, gate = gevent.event.Event(), gevent.event.Event()

    def slow(scope, receive, send):
        begun.set()
        gate.wait()
        hello(scope, receive, send)

    _, worker = start(slow)
    peer = Peer(server, HTTP, REQUEST)
    begun.wait()
    worker.stop()
    gevent.sleep(0.01)
    gate.set()
    assert peer.next()["status"] == 200
    peer.end()


def test_send_raises_some_time_after_the_server_has_gone(server, start):
    raised: gevent.queue.Queue = gevent.queue.Queue()

    def talks(scope, receive, send):
        receive()
        send({"type": "websocket.accept"})
        while receive()["type"] != "websocket.disconnect":
            pass
        try:
            for _ in range(WINDOW_EVENTS + 1):
                send({"type": "websocket.send", "text": "too late"})
        except Disconnected as error:
            raised.put(error)
            raise

    start(talks)
    peer = Peer(server, WEBSOCKET, CONNECT)
    peer.next()
    die(server.crossbar)
    start(hello)
    assert isinstance(raised.get(timeout=30), OSError)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"text": HUGE}, "at most"),
        ({"text": SHORT_BUT_HUGE}, "at most"),
        ({"text": "\ud800"}, "surrogates not allowed"),
        ({"text": 7}, "expected text or bytes|has no len"),
        ({"text": "x", "more": object()}, "serialize"),
        ({"text": "x", "once": "first"}, "expected \\[stream, number\\]"),
    ],
    ids=["long", "many bytes each", "no Unicode", "a number", "an object", "a strange once"],
)
def test_an_event_that_cannot_be_sent_is_an_error_for_its_sender_and_no_other_connection(
    server, start, event, error
):
    raised: gevent.queue.Queue = gevent.queue.Queue()

    def mistaken(scope, receive, send):
        receive()
        send({"type": "websocket.accept"})
        while receive()["type"] == "websocket.receive":
            try:
                send({"type": "websocket.send", **event})
            except (ValueError, TypeError) as found:
                raised.put(found)
            send({"type": "websocket.send", "text": "still here?"})

    start(mistaken)
    peers = [talk(server), talk(server)]
    for peer in peers:
        assert still_talks(peer)
        assert re.search(error, str(raised.get(timeout=30)))
        leave(peer)


def test_a_response_that_cannot_be_sent_is_answered_with_500_and_others_continue(server, start):
    def application(scope, receive, send):
        headers = [(b"x", object())] if scope["path"] == "/bad" else []
        send({"type": "http.response.start", "status": 200, "headers": headers})
        send({"type": "http.response.body", "body": b"well"})

    start(application)
    bad, good = (Peer(server, HTTP | {"path": path}, REQUEST) for path in ("/bad", "/good"))
    assert bad.end()[0]["status"] == 500
    assert good.end()[1]["body"] == b"well"
