"""Pings of silent peers, and peers that do not answer: RFC 6455 5.5.2."""

from __future__ import annotations

import socket
import time

import gevent
from gevent.event import Event as Signal
from websockets.frames import Opcode

from tests.thyme.serving import (
    Browser,
    echo,
    eventually,
    serving,
)
from thyme.asgi import Event, Receive, Scope, Send
from thyme.server.heartbeat import Heartbeat
from thyme.server.stream import Stream, plain_socket


def heard_between_pings(browser: Browser) -> bytes:
    while (frame := browser.next()).opcode is Opcode.PING:
        pass
    return bytes(frame.data)


def test_a_silent_websocket_is_pinged_and_stays_when_it_answers() -> None:
    with serving(echo, ping_seconds=0.02, pong_seconds=4) as server, Browser(server) as browser:
        for _ in range(2):  # the second is for those who have answered the first
            assert browser.next().opcode is Opcode.PING
            browser.flush()
        browser.say("a")
        assert heard_between_pings(browser) == b"a"


def test_a_websocket_that_does_not_answer_a_ping_is_closed() -> None:
    heard: list[Event] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send({"type": "websocket.accept"})
        heard.append(receive())

    with serving(application, ping_seconds=0.02, pong_seconds=0.02) as server:
        with Browser(server) as browser:
            eventually(lambda: heard)
            assert (heard[0]["type"], heard[0]["code"]) == ("websocket.disconnect", 1011)
            assert browser.closed() == (1011, "no answer to a ping")


def test_a_peer_is_not_blamed_when_we_stood_still_and_its_answer_is_here() -> None:
    ours, peers = socket.socketpair()
    stream, blamed = Stream(plain_socket(ours)), []

    def ping() -> None:
        peers.send(b"pong")
        time.sleep(0.05)  # nothing runs in this thread, for longer than a pong may take

    reader = gevent.spawn(stream.read)
    heartbeat = Heartbeat(
        stream,
        0.01,
        0.02,
        send_ping=ping,
        on_timeout=lambda: blamed.append(1),
        is_reading=lambda: True,
    )
    assert reader.get(timeout=30) == b"pong"
    gevent.sleep(0)
    heartbeat.stop()
    stream.close()
    peers.close()
    assert not blamed


def test_a_peer_is_not_blamed_while_the_application_does_not_receive() -> None:
    go_on = Signal()

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        send({"type": "websocket.accept"})
        go_on.wait()
        send({"type": "websocket.send", "text": receive()["text"]})

    with serving(application, ping_seconds=0.01, pong_seconds=0.01) as server:
        with Browser(server) as browser:
            browser.say("here")
            gevent.sleep(0.1)
            go_on.set()
            assert heard_between_pings(browser) == b"here"
