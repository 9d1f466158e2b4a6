"""Relay and worker, over a real Redis: two "processes" in one, each with its own crossbar."""

from __future__ import annotations

import gevent
import pytest

from gredis.drivers.gevent import GeventCrossbar
from gredis.messages import unpack
from gredis.names import Address
from tests.gredis.drivers.test_gevent import die
from tests.thyme.peer import CONNECT, HTTP, REQUEST, WEBSOCKET, Peer
from tests.thyme.serving import Browser, serving
from thyme.errors import WorkerLost
from thyme.server.server import Server
from thyme.server.status import Status
from thyme.server.stream import Stream
from thyme.split import wire
from thyme.split.flow_control import Queue
from thyme.split.relay import connection as relay_connection
from thyme.split.relay.gevent import Relay
from thyme.split.wire import encode_scope


def hello(scope, receive, send):
    body = f"{scope['method']} {scope['path']} {scope['headers']} {scope['client']}".encode()
    send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    send({"type": "http.response.body", "body": body})


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


def test_a_page_from_a_worker_is_the_same_as_from_the_server_itself(server, start):
    start(hello)
    here = Peer(hello, HTTP, REQUEST)
    there = Peer(server, HTTP, REQUEST)
    here_events, there_events = here.end(), there.end()
    there_events[0]["headers"] = [tuple(header) for header in there_events[0]["headers"]]
    assert there_events == here_events


def test_a_body_in_parts_and_a_response_in_parts_cross_in_order(server, start):
    def upper(scope, receive, send):
        send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            event = receive()
            more = event.get("more_body", False)
            body = event["body"].upper()
            send({"type": "http.response.body", "body": body, "more_body": more})

    start(upper)
    parts = [b"part %d " % number * 1000 for number in range(20)]
    events = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    events.append({"type": "http.request", "body": b"", "more_body": False})
    sent = Peer(server, HTTP | {"method": "POST"}, *events).end()
    assert b"".join(event["body"] for event in sent[1:]) == b"".join(parts).upper()


def test_a_websocket_talks_both_ways_and_the_worker_sees_it_leave(server, start):
    start(echo)
    peer = Peer(server, WEBSOCKET, CONNECT)
    assert peer.next() == {"type": "websocket.accept", "subprotocol": "chat"}
    for number in range(20):
        peer.say(str(number))
    assert [peer.next()["text"] for _ in range(20)] == [str(number) for number in range(20)]
    peer.leave()
    assert peer.end() == []
    assert left.get(timeout=30) == {"type": "websocket.disconnect", "code": 1001}


def test_connections_go_to_the_worker_with_most_room(server, start):
    taken = []

    def named(name):
        def application(scope, receive, send):
            taken.append(name)
            echo(scope, receive, send)

        return application

    start(named("one"), queues={"websocket": 2})
    start(named("two"), queues={"websocket": 2})
    peers = [Peer(server, WEBSOCKET, CONNECT) for _ in range(4)]
    for peer in peers:
        peer.next()
    assert sorted(taken) == ["one", "one", "two", "two"]
    for peer in peers:
        peer.leave()
        peer.end()


def test_a_connection_waits_for_a_worker_that_has_room(server, start):
    waiting = Peer(server, HTTP, REQUEST)
    gevent.sleep(0.02)
    start(hello)
    assert waiting.end()[0]["status"] == 200


def test_connections_that_wait_for_a_worker_are_in_the_metrics(server):
    waiting = Peer(server, HTTP, REQUEST)
    with gevent.Timeout(20):
        while 'gredis_queue_waiting{queue="http"} 1.0\n' not in Status(Server(server)).exposition():
            gevent.sleep(0.01)
    waiting.greenlet.kill()


def test_a_peer_that_leaves_before_a_worker_answers_is_a_disconnect_for_the_application(
    server, start
):
    peer = Peer(server, WEBSOCKET, CONNECT)
    peer.leave()
    start(echo)
    peer.end()
    assert left.get(timeout=30)["type"] == "websocket.disconnect"


@pytest.mark.parametrize(
    ("scope", "first", "expected"),
    [
        (HTTP, REQUEST, {"type": "http.response.start", "status": 500}),
        (WEBSOCKET, CONNECT, {"type": "websocket.close", "code": 1011}),
    ],
)
def test_the_relay_answers_for_an_application_that_fails(
    server, start, scope, first, expected, caplog
):
    def fails(scope, receive, send):
        raise KeyError("the application's own mistake")

    start(fails)
    event = Peer(server, scope, first).end()[0]
    assert {key: event[key] for key in expected} == expected
    assert "the application's own mistake" in caplog.text


def test_a_response_that_breaks_off_is_an_error_for_the_server(server, start):
    def breaks_off(scope, receive, send):
        send({"type": "http.response.start", "status": 200, "headers": []})
        send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise KeyError("x")

    start(breaks_off)
    with pytest.raises(WorkerLost):
        Peer(server, HTTP, REQUEST).end()


@pytest.mark.parametrize(
    ("scope", "first", "expected"),
    [
        (HTTP, REQUEST, {"type": "http.response.start", "status": 502}),
        (WEBSOCKET, CONNECT, {"type": "websocket.close", "code": 1012}),
    ],
)
def test_the_relay_answers_for_a_killed_worker_once_it_is_found_dead(
    server, start, scope, first, expected
):
    begun = gevent.event.Event()

    def never(scope, receive, send):
        if scope["type"] == "websocket":
            send({"type": "websocket.accept"})
        begun.set()
        gevent.sleep(3600)

    crossbar, _ = start(never)
    peer = Peer(server, scope, first)
    begun.wait()
    if scope["type"] == "websocket":
        assert peer.next()["type"] == "websocket.accept"
    die(crossbar)
    start(hello)  # a new worker finds that the old one is dead
    event = peer.next()
    assert {key: event[key] for key in expected} == expected


def test_a_websocket_that_nobody_has_answered_goes_to_another_worker(server, start):
    begun = gevent.event.Event()

    def never(scope, receive, send):
        begun.set()
        gevent.sleep(3600)

    crossbar, _ = start(never)
    peer = Peer(server, WEBSOCKET, CONNECT)
    begun.wait()
    die(crossbar)
    start(echo)
    assert peer.next() == {"type": "websocket.accept", "subprotocol": "chat"}
    peer.leave()
    peer.end()


def test_a_relay_of_the_next_release_is_understood(server, start, monkeypatch):
    monkeypatch.setattr(relay_connection, "VERSION", wire.VERSION + 1)
    start(hello)
    assert Peer(server, HTTP, REQUEST).end()[0]["status"] == 200


def test_a_relay_that_supports_only_other_versions_is_refused(server, start, monkeypatch, caplog):
    for name in ("VERSION", "OLDEST"):
        monkeypatch.setattr(relay_connection, name, 99)
    start(hello)
    assert Peer(server, HTTP, REQUEST).end()[0]["status"] == 500
    assert "uses protocol version 99" in caplog.text


def test_a_relay_of_version_1_is_refused_in_a_form_that_it_understands(server, start):
    """That release opened a connection like this, and waited for "end"."""
    start(hello)
    mailbox = server.crossbar.mailbox()
    scope, sender = encode_scope(HTTP), str(mailbox.address)
    opening = {"version": 1, "from": sender, "scope": scope, "events": [REQUEST]}
    server.crossbar.anycast("http", opening)
    answer = mailbox.get()
    assert (answer["events"], answer["end"]) == ([], "failed")
    assert Address.parse(answer["from"])


def test_a_worker_of_version_1_is_recognised(server, redis_server, caplog):
    """That release did this with any other version."""
    old = GeventCrossbar(redis_server.url)

    def take(body):
        opening = unpack(body)
        assert opening["version"] != 1
        address, mine = Address.parse(opening["from"]), f"{old.inbox}!1"
        old.unicast_soon(address, {"from": mine, "events": [], "end": "failed"})

    old.open()
    old.consume("http", take, 10).get()
    assert Peer(server, HTTP, REQUEST).end()[0]["status"] == 500
    assert "another release" in caplog.text
    old.close()


def test_nothing_is_left_of_a_thousand_connections(server, start):
    crossbar, worker = start(hello)
    for _ in range(10):
        peers = [Peer(server, HTTP, REQUEST) for _ in range(100)]
        for peer in peers:
            peer.end()
    while worker.endpoint.connections:
        gevent.sleep(0)
    for endpoint in (server.endpoint, worker.endpoint):
        (link,) = endpoint.links.values()
        assert not link.connections
        assert endpoint.crossbar.router.locals == {endpoint.address.local}
        assert endpoint.crossbar.router.watched == {link.remote_inbox}
    assert not server.endpoint.assignments
    assert not server.endpoint.pending
    assert crossbar.router.registration().queues == {"http": 1000, "websocket": 1000}


def test_connections_go_to_the_queue_that_was_chosen_for_them(redis_server, start, server):
    def of_slow(scope):
        return Queue("slow") if scope["path"] == "/slow" else None

    relay = Relay(redis_server.url, choose=of_slow, http=Queue("pages"))
    for queue in ("slow", "pages"):
        start(named(queue), queues={queue: 10})
    slow = Peer(relay, HTTP | {"path": "/slow"}, REQUEST)
    assert slow.end()[1]["body"] == b"slow"
    assert Peer(relay, HTTP, REQUEST).end()[1]["body"] == b"pages"


def named(name):
    def application(scope, receive, send):
        send({"type": "http.response.start", "status": 200, "headers": []})
        send({"type": "http.response.body", "body": name.encode()})

    return application


def test_a_connection_waits_so_long_and_no_longer(redis_server, server):
    relay = Relay(redis_server.url, websocket=Queue("nobody", seconds=0.1))
    assert Peer(relay, WEBSOCKET, CONNECT).end()[0]["code"] == 1013


def test_the_capacity_of_a_queue_limits_how_many_connections_wait(redis_server, server):
    relay = Relay(redis_server.url, http=Queue("nobody", capacity=1, seconds=0.5))
    peers = [Peer(relay, HTTP, REQUEST) for _ in range(2)]
    assert [peer.end()[0]["status"] for peer in peers] == [503, 503]


def test_what_was_sent_once_is_not_sent_again(server, start):
    def twice(scope, receive, send):
        receive()
        send({"type": "websocket.accept"})
        for once in (["a", 1], ["a", 1], ["b", 1], ["a", 2], ["a", 1]):
            send({"type": "websocket.send", "text": str(once), "once": once})

    start(twice)
    events = Peer(server, WEBSOCKET, CONNECT).end()
    texts = [event["text"] for event in events[1:]]
    assert texts == ["['a', 1]", "['b', 1]", "['a', 2]"]


def test_messages_that_a_worker_sends_at_once_are_written_to_the_peer_in_one_piece(
    server, start, monkeypatch
):
    def application(scope, receive, send):
        receive()
        send({"type": "websocket.accept"})
        receive()
        for text in "abcd":
            send({"type": "websocket.send", "text": text})
        receive()

    def written(stream, data):
        pieces.append(bytes(data))
        return send(stream, data)

    start(application)
    pieces, send = [], Stream._send
    with serving(server) as running, Browser(running) as browser:
        monkeypatch.setattr(Stream, "_send", written)
        browser.say("x")
        assert [browser.hear() for _ in range(4)] == ["a", "b", "c", "d"]
        assert pieces == [b"".join(b"\x81\x01" + text for text in (b"a", b"b", b"c", b"d"))]
