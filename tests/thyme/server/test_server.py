"""The server: where it listens, how many it serves, how it stops."""

from __future__ import annotations

import contextlib
import threading
import urllib.request
from typing import Any

import gevent
import pytest
from gevent import socket

from tests.thyme.serving import (
    DEADLINE,
    Browser,
    HTTPPeer,
    Peer,
    body,
    echo,
    eventually,
    hello,
    serving,
    start,
)
from thyme.asgi import Event, Receive, Scope, Send
from thyme.config import Config
from thyme.server import connection
from thyme.server.server import Server

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_port_0_becomes_a_real_port() -> None:
    with serving(hello) as server:
        host, port = server.address
        assert (host, port > 0) == ("127.0.0.1", True)


def test_an_address_in_use_is_an_os_error() -> None:
    with serving(hello) as server:
        with pytest.raises(OSError, match="in use"):
            Server(hello, Config(port=server.address[1])).start()


def test_there_is_no_address_before_start() -> None:
    with pytest.raises(RuntimeError, match="before start"):
        _ = Server(hello).address


def test_it_listens_on_ipv6() -> None:
    with serving(hello, host="::1") as server, HTTPPeer(server) as peer:
        peer.ask()
        assert peer.answer() == (200, b"hello /")


def test_many_connections_at_once() -> None:
    with serving(hello) as server:
        peers = [HTTPPeer(server) for _ in range(200)]
        for peer in peers:
            peer.ask()
        assert {peer.answer() for peer in peers} == {(200, b"hello /")}
        for peer in peers:
            peer.socket.close()
        eventually(lambda: not server.open_connections)


def test_too_many_connections_are_503() -> None:
    with serving(hello, connections=1) as server, HTTPPeer(server) as first:
        first.ask()
        first.answer()
        with Peer(server) as second:
            assert second.read_all().startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        first.ask()
        assert first.answer()[0] == 200


def test_it_runs_on_the_hub_of_any_thread_with_plain_clients_in_others() -> None:
    """As in a notebook: the hub in a native thread, nothing patched."""
    ready = threading.Event()
    found: dict[str, Any] = {}

    def hub_thread() -> None:
        server = Server(hello, Config(port=0))
        server.start()
        found["server"], found["hub"] = server, gevent.get_hub()
        found["url"] = f"http://127.0.0.1:{server.address[1]}/x"
        watcher = gevent.get_hub().loop.async_()
        watcher.start(lambda: gevent.spawn(server.stop))
        found["stop"] = watcher.send_ignoring_arg
        ready.set()
        server.serve_forever()
        watcher.close()
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=hub_thread)
    thread.start()
    ready.wait(DEADLINE)
    with urllib.request.urlopen(found["url"], timeout=DEADLINE) as answer:
        assert answer.read() == b"hello /x"
    found["stop"](None)
    thread.join(DEADLINE)
    assert not thread.is_alive()


# Stopping.


def test_serve_forever_returns_after_stop_and_the_port_is_free() -> None:
    server = Server(hello, Config(port=0))
    forever = gevent.spawn(server.serve_forever)
    eventually(lambda: server.listening)
    address = server.address
    server.stop()
    forever.get(timeout=DEADLINE)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_stop_lets_a_new_connection_say_what_it_has_come_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "NEWCOMER_SECONDS", DEADLINE)
    with serving(hello, drain_seconds=60) as server, Peer(server) as new:
        eventually(lambda: server.open_connections)
        stopping = gevent.spawn(server.stop)
        gevent.sleep(0)
        new.send(GET)
        assert b"\r\nconnection: close\r\n" in new.read_all()
        stopping.get()


def test_stop_ends_idle_connections_soon() -> None:
    with serving(hello, drain_seconds=60) as server, HTTPPeer(server) as used, Peer(server) as new:
        used.ask()
        used.answer()
        eventually(lambda: server.open_connections == 2)
        server.stop()
        assert used.read_all() == new.read_all() == b""


def test_stop_lets_a_request_finish_and_says_that_it_closes() -> None:
    go_on = gevent.event.Event()
    begun = gevent.event.Event()

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        go_on.wait()
        hello(scope, receive, send)

    with serving(application, drain_seconds=60) as server, Peer(server, GET) as peer:
        begun.wait()
        stopping = gevent.spawn(server.stop)
        gevent.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address)
        assert not stopping.ready()
        go_on.set()
        answer = peer.read_all()
        assert b"\r\nconnection: close\r\n" in answer
        assert answer.endswith(b"hello /")
        stopping.get()


def test_stop_closes_websockets_with_1001_rfc_6455_7_4_1() -> None:
    events: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send({"type": "websocket.accept"})
        events.append(receive())

    with serving(application, drain_seconds=60) as server, Browser(server) as browser:
        stopping = gevent.spawn(server.stop)
        assert browser.closed()[0] == 1001
        stopping.get()
    assert [(event["type"], event["code"]) for event in events] == [("websocket.disconnect", 1001)]


def test_stop_refuses_a_websocket_that_is_not_accepted_yet() -> None:
    waiting = gevent.event.Event()

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        waiting.set()
        assert receive()["type"] == "websocket.disconnect"

    with serving(application, drain_seconds=60) as server:
        opening = gevent.spawn(Browser, server)
        waiting.wait()
        server.stop()
        with opening.get() as browser:
            assert browser.protocol.handshake_exc.response.status_code == 503


def test_stop_kills_what_does_not_finish_in_time() -> None:
    begun, ended = gevent.event.Event(), []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            begun.set()
            gevent.sleep(1000)
        finally:
            ended.append("killed")

    with serving(application) as server, Peer(server, GET) as peer:
        begun.wait()
        server.stop(drain_seconds=0.01)
        assert ended == ["killed"]
        assert peer.read_all() == b""


def test_what_survives_its_kill_does_not_hold_up_the_stop() -> None:
    begun, gate = gevent.event.Event(), gevent.event.Event()

    def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        while not gate.is_set():
            with contextlib.suppress(gevent.GreenletExit):
                gate.wait()

    with serving(stubborn) as server, Peer(server, GET):
        serving_on = gevent.spawn(server.serve_forever)
        assert begun.wait(DEADLINE)
        server.stop(0)
        serving_on.get(timeout=DEADLINE)
        gate.set()
        eventually(lambda: not server.open_connections)


def test_a_browser_that_does_not_read_does_not_hold_up_the_stop_of_others() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/echo":
            echo(scope, receive, send)
            return
        send({"type": "websocket.accept"})
        while True:
            send({"type": "websocket.send", "text": "x" * 65536})

    with serving(application) as server, Browser(server), Browser(server, "/echo") as other:
        eventually(lambda: server.unsent)  # to the first one, which does not read
        stopping = gevent.spawn(server.stop, 1000)
        assert other.closed()[0] == 1001
        assert not stopping.ready()
        server.stop(0)
        stopping.get()


def test_stopping_twice_is_no_mistake() -> None:
    with serving(hello) as server:
        server.stop()
        server.stop()


def test_a_server_can_start_again() -> None:
    server = Server(hello, Config(port=0))
    for _ in range(2):
        server.start()
        with HTTPPeer(server) as peer:
            peer.ask()
            assert peer.answer()[0] == 200
        server.stop()


def test_streaming_goes_on_while_others_are_served() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fast":
            hello(scope, receive, send)
            return
        send(start())
        for _ in range(1000):
            send(body(b"x" * 1000, more=True))
            gevent.sleep(0.001)

    with serving(application) as server, HTTPPeer(server) as slow, HTTPPeer(server) as fast:
        slow.ask()
        slow.next()
        fast.ask(target="/fast")
        assert fast.answer() == (200, b"hello /fast")
