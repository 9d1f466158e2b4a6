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
from thyme.errors import Disconnected, WorkerLost
from thyme.server.server import Server
from thyme.server.status import Status
from thyme.server.stream import Stream
from thyme.split import wire as relay_messages
from thyme.split.flow_control import WINDOW_EVENTS, Queue
from thyme.split.relay import connection as relay_half
from thyme.split.relay.gevent import Relay
from thyme.split.wire import portable


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


def test_a_page_is_made_by_the_worker_as_if_it_were_the_server(server, start):
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


def test_who_leaves_before_a_worker_answers_is_not_forgotten(server, start):
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
def test_an_application_that_fails_is_answered_for(server, start, scope, first, expected, caplog):
    def fails(scope, receive, send):
        raise KeyError("the application's own mistake")

    start(fails)
    event = Peer(server, scope, first).end()[0]
    assert {key: event[key] for key in expected} == expected
    assert "the application's own mistake" in caplog.text


def test_a_response_that_breaks_off_is_not_passed_off_as_whole(server, start):
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
def test_what_a_killed_worker_had_is_answered_once_it_is_found_dead(
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


def test_the_application_is_told_when_the_server_dies(server, start):
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
    ("oldest", "newest", "chosen"), [(2, 2, 2), (2, 3, 2), (1, 2, 2), (3, 4, None), (1, 1, None)]
)
def test_the_newest_version_that_both_know_is_spoken(oldest, newest, chosen):
    assert relay_messages.spoken(oldest, newest) == chosen


def test_a_relay_of_the_next_release_is_understood(server, start, monkeypatch):
    monkeypatch.setattr(relay_half, "VERSION", relay_messages.VERSION + 1)
    start(hello)
    assert Peer(server, HTTP, REQUEST).end()[0]["status"] == 200


def test_a_relay_that_speaks_only_other_versions_is_told_so(server, start, monkeypatch, caplog):
    for name in ("VERSION", "OLDEST"):
        monkeypatch.setattr(relay_half, name, 99)
    start(hello)
    assert Peer(server, HTTP, REQUEST).end()[0]["status"] == 500
    assert "speaks version 99" in caplog.text


def test_a_relay_of_version_1_is_told_so_in_its_own_words(server, start):
    """That release opened a connection like this, and waited for "end"."""
    start(hello)
    mailbox = server.crossbar.mailbox()
    scope, sender = portable(HTTP), str(mailbox.address)
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
    old.take("http", take, 10).get()
    assert Peer(server, HTTP, REQUEST).end()[0]["status"] == 500
    assert "another release" in caplog.text
    old.close()


def test_only_what_means_something_elsewhere_crosses():
    scope = HTTP | {
        "state": {"pool": object()},
        "extensions": {"http.response.pathsend": {}, "websocket.http.response": {}},
    }
    crossing = portable(scope)
    assert "state" not in crossing
    assert crossing["extensions"] == {"websocket.http.response": {}}


def test_nothing_is_left_of_a_thousand_connections(server, start):
    crossbar, worker = start(hello)
    for _ in range(10):
        peers = [Peer(server, HTTP, REQUEST) for _ in range(100)]
        for peer in peers:
            peer.end()
    while worker._greenlets:
        gevent.sleep(0)
    for desk in (server.desk, worker.desk):
        (link,) = desk.links.values()
        assert not link.connections
        assert desk.end.router.locals == {desk.address.local}
        assert desk.end.router.watched == {link.inbox}
    assert not server.desk._attempts
    assert not server.desk._pending
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


def test_only_so_many_wait(redis_server, server):
    relay = Relay(redis_server.url, http=Queue("nobody", letters=1, seconds=0.5))
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


def test_what_a_worker_says_at_once_to_a_peer_goes_out_in_one_piece(server, start, monkeypatch):
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
