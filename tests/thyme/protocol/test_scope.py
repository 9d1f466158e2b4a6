"""The scope: what an application sees of a request, by the letter of ASGI."""

from __future__ import annotations

import pytest

from thyme.config import Config
from thyme.protocol.http import Request
from thyme.protocol.http11 import RequestParser
from thyme.protocol.scope import (
    HTTP_EXTENSIONS,
    ConnectionInfo,
    decode_path,
    http_scope,
    websocket_scope,
)

PLACE = ConnectionInfo(("10.0.0.1", 5000), ("10.0.0.2", 80))


def request(head: bytes) -> Request:
    parser = RequestParser(Config())
    parser.feed(head + b"Host: a\r\n\r\n")
    found = parser.events[0]
    assert isinstance(found, Request)
    return found


def test_an_http_scope_has_every_key_of_asgi() -> None:
    assert http_scope(request(b"GET /a%2Fb?x=%20 HTTP/1.1\r\nX: \xe9\r\n"), PLACE) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a/b",
        "raw_path": b"/a%2Fb",
        "query_string": b"x=%20",
        "root_path": "",
        "headers": [(b"x", b"\xe9"), (b"host", b"a")],
        "client": ("10.0.0.1", 5000),
        "server": ("10.0.0.2", 80),
        "extensions": HTTP_EXTENSIONS,
    }


def test_a_websocket_scope_has_subprotocols_and_no_method() -> None:
    head = b"GET /s HTTP/1.1\r\nSec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\n"
    scope = websocket_scope(request(head), PLACE)
    assert (scope["type"], scope["scheme"]) == ("websocket", "ws")
    assert scope["subprotocols"] == ["a", "b", "c"]  # RFC 6455 11.3.4
    assert "method" not in scope
    assert scope["extensions"] == {"websocket.http.response": {}}


def test_schemes_are_secure_on_a_secure_connection() -> None:
    info = ConnectionInfo(None, None, secure=True)
    assert http_scope(request(b"GET / HTTP/1.1\r\n"), info)["scheme"] == "https"
    assert websocket_scope(request(b"GET / HTTP/1.1\r\n"), info)["scheme"] == "wss"


def test_the_path_includes_the_root_path_and_raw_path_does_not() -> None:
    scope = http_scope(request(b"GET /a HTTP/1.1\r\n"), ConnectionInfo(None, None, "/mount"))
    assert (scope["path"], scope["root_path"]) == ("/mount/a", "/mount")
    assert scope["raw_path"] == b"/a"


@pytest.mark.parametrize(
    ("raw", "path"),
    [(b"/%C3%A9", "/é"), (b"/%", "/%"), (b"/%zz", "/%zz"), (b"/%FF", "/\N{REPLACEMENT CHARACTER}")],
)
def test_paths_are_decoded_percent_then_utf_8(raw: bytes, path: str) -> None:
    assert decode_path(raw) == path
