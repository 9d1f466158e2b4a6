"""ASGI's extensions of HTTP: early hints, and a file by its path."""

from __future__ import annotations

import pytest

from tests.thyme.serving import HTTPPeer, Peer, body, serving, start
from thyme.asgi import Receive, Scope, Send


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
