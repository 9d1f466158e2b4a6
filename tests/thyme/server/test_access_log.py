"""The access log, and what it does not tell."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from typing import Any

import pytest

from tests.thyme.serving import (
    Browser,
    HTTPPeer,
    Peer,
    echo,
    eventually,
    hello,
    hello_of_a_coroutine,
    let_servers_send_by,
    serving,
)
from thyme.asgi import BlockingApplication, Receive, Scope, Send
from thyme.loop.bridge import adapt
from thyme.server.access_log import AccessLog

UPGRADE = (
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture(autouse=True)
def _levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "thyme.access")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "thyme.access"]


@pytest.mark.parametrize("application", [hello, adapt(hello_of_a_coroutine)])
def test_common_lines(application: BlockingApplication, caplog: pytest.LogCaptureFixture) -> None:
    with serving(application, access_log="common") as server, HTTPPeer(server) as peer:
        peer.ask(target="/rooms/1?token=secret", cookie="sessionid=secret", authorization="secret")
        peer.answer()
        eventually(lambda: caplog.messages)
    (line,) = caplog.messages
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /rooms/1 HTTP/1\.1"'
        r" 200 \d{3}",
        line,
    )


def test_what_a_peer_that_has_gone_was_not_told_is_not_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(real: socket.socket, data: bytes) -> int:
        raise ConnectionResetError

    async def application(scope: Scope, receive: Any, send: Any) -> None:
        if scope["path"] == "/later":
            await asyncio.sleep(0.01)  # what was answered before has been lost by then
        await hello_of_a_coroutine(scope, receive, send)

    let_servers_send_by(monkeypatch, gone)
    requests = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /later HTTP/1.1\r\nHost: a\r\n\r\n"
    with serving(adapt(application), access_log="common") as server, Peer(server, requests):
        eventually(lambda: len(lines(caplog)) == 2)
    assert lines(caplog)[1].endswith(" 200 0")


def test_json_lines(caplog: pytest.LogCaptureFixture) -> None:
    with serving(echo, access_log="json") as server:
        with HTTPPeer(server) as peer:
            peer.ask()
            peer.answer()
        with Browser(server, "/ws?token=secret") as browser:
            browser.close()
            browser.closed()
        eventually(lambda: len(lines(caplog)) == 2)
    page, socket = map(json.loads, lines(caplog))
    assert (page["method"], page["path"], page["status"], page["client"], page["websocket"]) == (
        ("GET", "/", 200, "127.0.0.1", False)
    )
    assert (socket["path"], socket["status"], socket["websocket"]) == ("/ws", 101, True)
    assert page["bytes"] > 0
    assert page["seconds"] >= 0
    assert "secret" not in caplog.text


def test_a_path_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with serving(hello, access_log="common") as server:
        for path in (b'/"%0a', b"/\xe9\xff"):
            request = b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            with Peer(server, request) as peer:
                peer.read_all()
    assert '"GET /%22%0a HTTP/1.1"' in caplog.text
    assert all(line.isascii() and line.count('"') == 2 for line in caplog.messages)


@pytest.mark.parametrize("upgrade", [False, True], ids=["http", "websocket"])
def test_a_path_cannot_forge_a_line_of_the_errors_either(
    caplog: pytest.LogCaptureFixture, upgrade: bool
) -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a fault")

    fields = UPGRADE if upgrade else b""
    request = b"GET /a%%0AERROR%%20forged%%1B%%5B31m?secret HTTP/1.1\r\nHost: a\r\n%b\r\n" % fields
    with serving(application) as server, Peer(server, request) as peer:
        assert peer.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 500")
        eventually(lambda: caplog.messages)
    (line,) = (text for text in caplog.messages if "failed" in text)
    assert "/a%0AERROR%20forged%1B%5B31m: the application failed" in line
    assert line.isprintable()
    assert "secret" not in caplog.text


def test_a_response_without_an_end_does_not_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda scope, receive, send: None) as server:
        with Peer(server, b"GET /%0aforged HTTP/1.0\r\n\r\n") as peer:
            peer.read_all()
    assert "GET /%0aforged: the application returned" in caplog.text


def test_failures_are_logged_with_their_status(caplog: pytest.LogCaptureFixture) -> None:
    def application(*_: object) -> None:
        raise ValueError

    with serving(application, access_log="common") as server, HTTPPeer(server) as peer:
        peer.ask()
        assert peer.answer()[0] == 500
        eventually(lambda: ' HTTP/1.1" 500 ' in caplog.text)


def test_without_it_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with serving(hello) as server, HTTPPeer(server) as peer:
        peer.ask()
        peer.answer()
    assert caplog.messages == []


def test_an_unknown_form_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        AccessLog("xml")
