"""What can be set, in one frozen value, and every limit with its unit, its reason and a precedent.

`Config` is passed in; nothing here is read from the environment or kept globally. The command
line that fills it is `cli/main.py`; the parts that obey it are `protocol/http11.py`,
`protocol/websocket.py`, `server/connection.py` and `server/server.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

HEAD_BYTES = 64 * KIB
"""A request's head, in bytes: browsers send 1 to 8 KiB; nginx stops at 32 KiB, uvicorn at 64."""

TARGET_BYTES = 8 * KIB
"""A request target (path and query), in bytes: Apache's LimitRequestLine is 8190."""

HEADER_FIELDS = 100
"""Fields in a head: each costs memory in three places; Apache's LimitRequestFields is 100."""

BODY_BYTES = 1 * GIB
"""A request body, in bytes. It streams, so this bounds time and disks, not memory; as Apache."""

MESSAGE_BYTES = 1 * MIB
"""A WebSocket message after decompression, in bytes: it is kept whole. As `websockets`."""

READ_BYTES = 64 * KIB
"""Asked of the socket at a time. One read is also the most that is parsed at a time; as uvicorn."""

AHEAD_BYTES = 64 * KIB
"""Kept of what a peer sends before its turn (pipelining), in bytes. Then TCP pushes back."""

CHUNK_OVERHEAD_BYTES = 16 * KIB
"""Chunk extensions and trailers between two bytes of body: CVE-2024-22019 (Node.js, 16 KiB)."""

DRAIN_BYTES = 256 * KIB
"""Unread request body that is read away to keep a connection, in bytes: Go's net/http, 256 KiB."""

HEAD_SECONDS = 60.0
"""For a head that has begun: a head trickled for ever holds a socket. nginx: 60 s."""

CLOSE_SECONDS = 10.0
"""For the peer's answer to our WebSocket close frame; as `websockets`."""

LINGER_SECONDS = 2.0
"""For the peer to read an answer we end a connection with (RFC 9112 9.6): Apache, 2 s."""

DRAIN_SECONDS = 10.0
"""For requests and WebSockets in progress when the server stops: Docker kills after 10 s."""

PONG_SECONDS = 20.0
"""For the answer to a ping, when pings are sent: slower is as good as gone. As `websockets`."""

BACKLOG = 2048
"""Connections the kernel accepts for us; more than a burst of reconnecting browsers. As uvicorn."""

HEAD_READ_BYTES = 8 * KIB
"""Asked of the socket for a head: all of it, usually; and when requests are pipelined, not many."""

WORK_PER_TURN = 32
"""Requests, frames or reads before others get a turn: about a millisecond of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a `Server` can be told. Sizes in bytes, times in seconds, None: no such limit.

    `port` 0 lets the system choose. `root_path` is ASGI's: where the application is mounted,
    without a slash at its end. `server_header` "" sends no Server field.

    `binds`: where to listen (see `server/listeners.py`) instead of on `host` and `port`.
    `certificate` and `private_key`: PEM files; with them TLS is spoken on every bind. `proxies`:
    addresses or networks whose X-Forwarded-* fields are believed (see `server/proxies.py`).

    `ping_seconds`: a WebSocket that has been silent for so long is pinged, and closed when nothing
    comes for `pong_seconds` more. None: no pings, and no timer.

    A slow client is one that does not read what is sent to it. By default the application's `send`
    blocks for as long as that lasts, and memory stays flat. `slow_seconds`: that it may block;
    then a WebSocket is closed with 1013 ("try again later") and a response is cut off.
    `slow_bytes`: that are kept for a WebSocket's slow client, so that `send` does not block; over
    that it is closed with 1013.

    `access_log`: a line for each request, "common" or "json" (see `server/access_log.py`).

    `compression` offers permessage-deflate (RFC 7692). It is off by default, as in Node's `ws`:
    a chat's short messages gain little and cost two to four times the CPU.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    server_header: str = "thyme"
    backlog: int = BACKLOG
    binds: tuple[str, ...] = ()
    certificate: str | None = None
    private_key: str | None = None
    proxies: tuple[str, ...] = ()
    access_log: str | None = None
    head_bytes: int = HEAD_BYTES
    target_bytes: int = TARGET_BYTES
    header_fields: int = HEADER_FIELDS
    body_bytes: int = BODY_BYTES
    message_bytes: int = MESSAGE_BYTES
    head_seconds: float | None = HEAD_SECONDS
    keep_alive_seconds: float | None = None
    close_seconds: float = CLOSE_SECONDS
    drain_seconds: float = DRAIN_SECONDS
    connections: int | None = None
    ping_seconds: float | None = None
    pong_seconds: float = PONG_SECONDS
    slow_seconds: float | None = None
    slow_bytes: int | None = None
    compression: bool = False
