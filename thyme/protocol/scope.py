"""What an application sees of a request: ASGI's scope.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html, "HTTP Connection Scope" and
"WebSocket Connection Scope". Which events follow is `protocol/response.py`'s and
`protocol/websocket.py`'s matter. Taught in notebooks/05_asgi_esque.ipynb.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from thyme.protocol.http11 import Request

Scope = dict[str, Any]

ASGI_VERSION = "3.0"
SPEC_VERSION = "2.5"

HTTP_EXTENSIONS: dict[str, dict[str, Any]] = {
    "http.response.trailers": {},
    "http.response.early_hint": {},
    "http.response.pathsend": {},
}


@dataclass(frozen=True, slots=True)
class Place:
    """What all requests of one connection share: who speaks, with whom, and where.

    Addresses are (host, port), or None where there is none (a unix socket). `state` is what the
    application's startup has left (`server/lifespan.py`), None when it has no startup.
    """

    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    root_path: str = ""
    secure: bool = False
    state: dict[str, Any] | None = None


def http_scope(request: Request, place: Place) -> Scope:
    """The scope of an HTTP request."""
    raw_path = request.path
    scope: Scope = {
        "type": "http",
        "asgi": {"version": ASGI_VERSION, "spec_version": SPEC_VERSION},
        "http_version": request.http_version,
        "method": request.method,
        "scheme": "https" if place.secure else "http",
        "path": place.root_path + decoded(raw_path),
        "raw_path": raw_path,
        "query_string": request.query,
        "root_path": place.root_path,
        "headers": request.headers,
        "client": place.client,
        "server": place.server,
        "extensions": dict(HTTP_EXTENSIONS),
    }
    if place.state is not None:
        # ASGI, lifespan: "the server will pass a shallow copy of the namespace".
        scope["state"] = place.state.copy()
    return scope


def websocket_scope(request: Request, place: Place) -> Scope:
    """The scope of a WebSocket: as HTTP's, with the subprotocols that the peer offers."""
    scope = http_scope(request, place)
    del scope["method"]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if place.secure else "ws"
    scope["subprotocols"] = _subprotocols(request)
    scope["extensions"] = {"websocket.http.response": {}}
    return scope


def decoded(raw_path: bytes) -> str:
    """`raw_path` "with percent-encoded sequences and UTF-8 byte sequences decoded" (ASGI).

    What is not UTF-8 becomes U+FFFD; `raw_path` in the scope still tells.
    """
    if b"%" in raw_path:
        raw_path = unquote_to_bytes(raw_path)
    return raw_path.decode("utf-8", "replace")


def written(raw_path: bytes) -> str:
    """`raw_path` for a line of a log: still percent-encoded, so that it cannot forge another one.

    The parser lets bytes over 0x7F pass, and a quotation mark would end a field of the access log.
    """
    return raw_path.decode("latin-1").encode("unicode_escape").decode().replace('"', "%22")


def _subprotocols(request: Request) -> list[str]:
    # RFC 6455 11.3.4: the field may appear several times, each a list of tokens.
    values = [value for name, value in request.headers if name == b"sec-websocket-protocol"]
    names = b",".join(values).decode("latin-1").split(",")
    return [name for name in (name.strip(" \t") for name in names) if name]
