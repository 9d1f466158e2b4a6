"""The endpoint of a relay over a real Redis: a fault on one connection, or between two processes,
affects no other, and is reported where it can be.
"""

from __future__ import annotations

import time

import gevent
import pytest

from gredis.drivers.gevent import GeventCrossbar
from gredis.names import Address
from tests.conftest import running_redis
from tests.thyme.peer import CONNECT, HTTP, REQUEST, WEBSOCKET, Peer
from thyme.errors import Disconnected
from thyme.split.flow_control import Queue
from thyme.split.relay import endpoint as relay_endpoint
from thyme.split.relay import gevent as relay_module
from thyme.split.relay.gevent import Relay
from thyme.split.wire import EVENT_BYTES
from thyme.split.worker import gevent as worker_module
from thyme.split.worker.gevent import Worker

HUGE = "x" * (EVENT_BYTES + 1)
SHORT_BUT_HUGE = "\N{GRINNING FACE}" * (EVENT_BYTES // 4 + 1)


def echo(scope, receive, send):
    receive()
    send({"type": "websocket.accept"})
    while (event := receive())["type"] == "websocket.receive":
        send({"type": "websocket.send", "text": event["text"]})
    ended.put(event)


ended: gevent.queue.Queue = gevent.queue.Queue()
"""What has ended the conversations with `echo`."""


@pytest.fixture(autouse=True)
def _nothing_has_ended():
    ended.queue.clear()


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


@pytest.mark.parametrize("text", [HUGE, SHORT_BUT_HUGE], ids=["long", "many bytes each"])
def test_a_message_too_big_for_the_transport_closes_its_websocket_with_1009(server, start, text):
    start(echo)
    talker, other = talk(server), talk(server)
    assert still_talks(talker)
    talker.say(text)
    (close,) = talker.end()
    assert (close["type"], close["code"]) == ("websocket.close", 1009)
    assert f"at most {EVENT_BYTES}" in close["reason"]
    assert len(close["reason"].encode()) <= 123  # RFC 6455 5.5
    assert ended.get(timeout=30) == {"type": "websocket.disconnect", "code": 1009}
    assert still_talks(other)
    leave(other)


def test_an_event_that_is_invalid_for_the_server_ends_its_connection_and_no_other(server, start):
    def application(scope, receive, send):
        headers = [(b"three", b"of", b"them")] if scope["path"] == "/bad" else []
        send({"type": "http.response.start", "status": 200, "headers": headers})
        send({"type": "http.response.body", "body": b"well"})

    start(application)
    peers = [Peer(server, HTTP | {"path": path}, REQUEST) for path in ("/bad", "/good")]
    with pytest.raises(ValueError, match="unpack"):
        peers[0].end()
    assert peers[1].end()[1]["body"] == b"well"


def test_events_too_large_for_an_opening_follow_when_a_worker_has_accepted_it(server, start):
    """They do not wait in Redis: an opening has to fit into a letter, and a thousand may wait."""
    body = [bytes([number]) * 60_000 for number in range(4)]
    events = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    events.append({"type": "http.request", "body": b"", "more_body": False})

    def upload(scope, receive, send):
        received = b""
        while (event := receive())["more_body"]:
            received += event["body"]
        send({"type": "http.response.start", "status": 200, "headers": []})
        send({"type": "http.response.body", "body": b"same" if received == whole else b"not"})

    whole = b"".join(body)
    peer = Peer(server, HTTP | {"method": "POST"}, *events)
    while peer.incoming.qsize():
        gevent.sleep(0)
    start(upload)
    assert peer.end()[1]["body"] == b"same"


def test_an_upload_that_breaks_off_is_not_the_applications_fault(server, start):
    """A server logs an error when an application returns without a response."""

    def upload(scope, receive, send):
        while receive()["type"] != "http.disconnect":
            pass

    start(upload)
    part = {"type": "http.request", "body": b"a part", "more_body": True}
    peer = Peer(server, HTTP | {"method": "POST"}, part, {"type": "http.disconnect"})
    with pytest.raises(Disconnected):
        peer.end()


def test_a_large_body_in_one_event_is_split(server, start):
    def upload(scope, receive, send):
        sizes = []
        while True:
            event = receive()
            sizes.append(len(event["body"]))
            if not event["more_body"]:
                break
        send({"type": "http.response.start", "status": 200, "headers": []})
        send({"type": "http.response.body", "body": str([max(sizes), sum(sizes)]).encode()})

    start(upload)
    event = {"type": "http.request", "body": bytes(17 * 1024 * 1024), "more_body": False}
    sent = Peer(server, HTTP | {"method": "POST"}, event).end()
    assert sent[1]["body"] == str([64 * 1024, 17 * 1024 * 1024]).encode()


def test_a_websocket_that_waits_for_a_worker_is_offered_again_when_redis_has_lost_it(monkeypatch):
    with running_redis("valkey") as redis, gevent.Timeout(60):
        ends = [GeventCrossbar(redis.url) for _ in range(2)]
        monkeypatch.setattr(relay_module, "connect", lambda url, prefix: ends[0])
        ends[0].open()
        relay = Relay(redis.url, websocket=Queue("websocket", seconds=60))
        peer = Peer(relay, WEBSOCKET, CONNECT)
        while not ends[0].status()[0].get()[1]:  # it waits there
            gevent.sleep(0.01)
        redis.kill()
        redis.start()
        worker = Worker(echo, ends[1], drain_seconds=0.2)
        running = gevent.spawn(worker.run)
        assert peer.next()["type"] == "websocket.accept"
        leave(peer)
        worker.stop()
        running.get(timeout=30)
        relay.close()


def test_a_worker_that_was_taken_for_dead_by_mistake_hands_over_its_resumable_sockets(
    server, start
):
    """Its consumers must not tell their rooms that somebody has left who has not."""

    def resumed(scope, receive, send):
        receive()
        send({"type": "websocket.accept"})
        send({"type": "websocket.resume.note", "note": b"n"})
        send({"type": "websocket.send", "text": scope["extensions"]["websocket.resume"]["note"]})
        while (event := receive())["type"] == "websocket.receive":
            send({"type": "websocket.send", "text": event["text"]})
        ended.put(event)

    first, _ = start(resumed)
    peer = talk(server)
    assert peer.next()["text"] is None
    server.endpoint.on_process_gone(first.inbox)  # Redis had not seen it for too long
    assert ended.get(timeout=30) == {"type": "websocket.handover"}
    assert peer.next()["text"] == b"n"
    assert still_talks(peer)
    leave(peer)
    assert ended.get(timeout=30)["type"] == "websocket.disconnect"


def test_a_successor_does_not_wait_for_ever_for_the_last_output_of_a_departing_worker(
    server, start, monkeypatch
):
    monkeypatch.setattr(relay_endpoint, "TAKEOVER_SECONDS", 0.1)
    monkeypatch.setattr(worker_module, "HANDOVER_SECONDS", 30)
    said_all, left = gevent.event.Event(), gevent.event.Event()

    def application(scope, receive, send):
        receive()
        send({"type": "websocket.accept"})
        send({"type": "websocket.resume.note", "note": b"n"})
        note = scope["extensions"]["websocket.resume"]["note"]
        send({"type": "websocket.send", "text": f"went on with {note}"})
        if receive()["type"] == "websocket.handover":
            said_all.wait()  # and does not end
            left.set()

    _, first = start(application)
    peer = talk(server)
    assert peer.next()["text"] == "went on with None"
    start(application)
    first.stop()
    assert peer.next()["text"] == "went on with b'n'"
    assert not left.is_set()
    assert not server.endpoint.takeovers
    said_all.set()
    leave(peer)


def test_nonsense_from_a_stranger_disturbs_no_connection(server, start, caplog):
    start(echo)
    peer = talk(server)
    stranger, endpoint = GeventCrossbar(server.url), server.endpoint.address
    stranger.open()
    run = int(time.time())
    for nonsense in (
        b"no map",
        [],
        [2, "x", 1],
        [2, f"{stranger.inbox}!1", run, 0, 1, 0, [[[1], "hello", "x"], [[], "event"]]],
        [2, f"{stranger.inbox}!1", run, 0, 2, 0, [[[99], "taken", None, None]]],
    ):
        stranger.unicast(Address(endpoint.inbox, endpoint.local), nonsense)
    assert still_talks(peer)
    assert "cannot handle an entry" in caplog.text
    leave(peer)
    stranger.close()


def test_a_lifeline_that_is_impossible_is_logged_once(redis_server, server, start, caplog):
    """A worker on another machine, and a relay whose lifelines are on loopback: as if so."""
    start(echo)
    driver = server.endpoint.driver
    driver.accept_lifelines = lambda host, endpoint: "127.0.0.1:1"  # where nobody listens
    for _ in range(2):
        leave(talk(server))
    deadline = time.monotonic() + 30
    while "no lifeline to 127.0.0.1:1" not in caplog.text and time.monotonic() < deadline:
        gevent.sleep(0.01)
    assert caplog.text.count("no lifeline to 127.0.0.1:1") == 1
    assert "see Relay(lifeline=…)" in caplog.text


@pytest.mark.parametrize("how", ["closed", "used again"])
def test_a_relay_stops_accepting_lifelines_when_another_part_has_closed_its_client(
    redis_server, start, monkeypatch, how
):
    ends = [GeventCrossbar(redis_server.url) for _ in range(2)]
    monkeypatch.setattr(relay_module, "connect", lambda url, prefix: ends[0])
    start(echo)
    relay = Relay(redis_server.url)
    leave(talk(relay))
    host, _, port = relay.endpoint.lifeline_place.rpartition(":")
    ends.pop(0).close()
    if how == "closed":
        relay.close()
    else:
        leave(talk(relay))
    with pytest.raises(ConnectionRefusedError):
        gevent.socket.create_connection((host, int(port)))
    relay.close()


def test_a_worker_is_not_probed_while_it_holds_its_lifeline(server, start, monkeypatch):
    """A Redis that has just come back empty does not know it, and would have it taken for dead."""
    asked: list[bool] = []
    monkeypatch.setattr(relay_endpoint, "HELLO_SECONDS", 0.3)
    held = server.endpoint.lifelines_in
    monkeypatch.setattr(
        server.endpoint, "lifeline_ended", lambda inbox, *_: asked.append(inbox in held)
    )
    start(echo)
    talker, later = talk(server), gevent.event.Event()
    server.endpoint.crossbar.call_later(0.6, later.set)
    assert later.wait(10)
    while not held:
        gevent.sleep(0)
    assert True not in asked
    leave(talker)
