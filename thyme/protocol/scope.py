"""The ASGI scope: what an application sees of a request.

Events that follow are made in `protocol/response.py` and `protocol/websocket.py`. The client's
address may be replaced before, by that which a trusted proxy has sent: `server/proxies.py`.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html, "HTTP Connection Scope" and
"WebSocket Connection Scope". Taught in notebooks/05_asgi_esque.ipynb.
Read next: `server/http_cycle.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from thyme.asgi import Scope, State
from thyme.protocol.http import Request

ASGI_VERSION = "3.0"
SPEC_VERSION = "2.5"

HTTP_EXTENSIONS: dict[str, dict[str, object]] = {
    "http.response.trailers": {},
    "http.response.early_hint": {},
    "http.response.pathsend": {},
}


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """The facts that all requests of one connection share.

    `client` and `server` are (host, port), or None for a client on a unix socket. `secure`: the
    browser uses TLS. `state`: what the application's startup returned (`server/lifespan.py`).
    """

    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    root_path: str = ""
    secure: bool = False
    state: State | None = None


def http_scope(request: Request, info: ConnectionInfo) -> Scope:
    """Return the scope of an HTTP request."""
    raw_path = request.path
    scope: Scope = {
        "type": "http",
        "asgi": {"version": ASGI_VERSION, "spec_version": SPEC_VERSION},
        "http_version": request.http_version,
        "method": request.method,
        "scheme": "https" if info.secure else "http",
        "path": info.root_path + decode_path(raw_path),
        "raw_path": raw_path,
        "query_string": request.query,
        "root_path": info.root_path,
        "headers": request.headers,
        "client": info.client,
        "server": info.server,
        "extensions": dict(HTTP_EXTENSIONS),
    }
    if info.state is not None:
        # ASGI, lifespan: "the server will pass a shallow copy of the namespace".
        scope["state"] = info.state.copy()
    return scope


def websocket_scope(request: Request, info: ConnectionInfo) -> Scope:
    """Return the scope of a WebSocket, with the subprotocols that the peer offers."""
    scope = http_scope(request, info)
    del scope["method"]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if info.secure else "ws"
    scope["subprotocols"] = _offered_subprotocols(request)
    scope["extensions"] = {"websocket.http.response": {}}
    return scope


def decode_path(raw_path: bytes) -> str:
    """Return `raw_path` "with percent-encoded sequences and UTF-8 byte sequences decoded" (ASGI).

    Bytes that are not UTF-8 become U+FFFD; the scope's `raw_path` still has them.
    """
    if b"%" in raw_path:
        raw_path = unquote_to_bytes(raw_path)
    return raw_path.decode("utf-8", "replace")


def log_safe_path(raw_path: bytes) -> str:
    """Return `raw_path` for a log: still percent-encoded, so that it cannot forge another line.

    Escapes what the parser lets pass: bytes above 0x7F, and the quotation mark, which would end a
    field of the access log.
    """
    return raw_path.decode("latin-1").encode("unicode_escape").decode().replace('"', "%22")


def _offered_subprotocols(request: Request) -> list[str]:
    # RFC 6455 11.3.4: the field may appear several times, each a list of tokens.
    values = [value for name, value in request.headers if name == b"sec-websocket-protocol"]
    names = b",".join(values).decode("latin-1").split(",")
    return [name for name in (name.strip(" \t") for name in names) if name]
