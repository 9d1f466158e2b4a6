"""All that can be configured, in one frozen value; every limit with unit, reason, and precedent.

`Config` is passed in; nothing here is read from the environment or kept globally. The command line
that fills it is `cli/options.py`. Obeyed in `protocol/http11.py`, `protocol/websocket.py`,
`server/connection.py` and `server/server.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

HEAD_BYTES = 64 * KIB
"""A request head, in bytes: browsers send 1 to 8 KiB; nginx allows 32 KiB, uvicorn 64."""

TARGET_BYTES = 8 * KIB
"""A request target (path and query), in bytes: Apache's LimitRequestLine is 8190."""

HEADER_FIELDS = 100
"""Header fields in a head: each costs memory three times; Apache's LimitRequestFields is 100."""

BODY_BYTES = 1 * GIB
"""A request body, in bytes. It is streamed: this bounds time and disks, not memory. As Apache."""

MESSAGE_BYTES = 1 * MIB
"""A WebSocket message after decompression, in bytes: it is kept in memory. As `websockets`."""

READ_BYTES = 64 * KIB
"""Read from a socket, and parsed, at a time. As uvicorn."""

AHEAD_BYTES = 64 * KIB
"""Kept of what a peer sends early (pipelining), in bytes. Beyond that, TCP stops the peer."""

CHUNK_OVERHEAD_BYTES = 16 * KIB
"""Chunk extensions and trailers between two bytes of body: CVE-2024-22019 (Node.js, 16 KiB)."""

DRAIN_BYTES = 256 * KIB
"""Unread request body that is discarded to keep a connection, in bytes. As Go's net/http."""

HEAD_SECONDS = 60.0
"""For a head that has begun: an endless one would occupy a socket. As nginx."""

CLOSE_SECONDS = 10.0
"""For the peer's answer to our WebSocket close frame; as `websockets`."""

LINGER_SECONDS = 2.0
"""For the peer to read the last response of a connection (RFC 9112 9.6). As Apache."""

DRAIN_SECONDS = 10.0
"""For requests and WebSockets in progress at shutdown: Docker kills after 10 s."""

PONG_SECONDS = 20.0
"""For the answer to a ping, if pings are sent. As `websockets`."""

BACKLOG = 2048
"""Connections that the kernel queues: more than a burst of reconnecting browsers. As uvicorn."""

HEAD_READ_BYTES = 8 * KIB
"""Read from a socket for a head: usually all of it, and of pipelined requests only a few."""

WORK_PER_TURN = 32
"""Requests, frames or reads before a connection yields to others: about a millisecond of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration of a `Server`. Sizes in bytes, times in seconds; None: no such limit.

    `port` 0 lets the system choose. `root_path` is ASGI's: where the application is mounted,
    without a trailing slash. `server_header` "" sends no Server field.

    `binds`: where to listen (see `server/listeners.py`), instead of `host` and `port`.
    `certificate` and `private_key`: PEM files, which enable TLS on every bind. `proxies`: addresses
    or networks whose X-Forwarded-* fields are trusted (see `server/proxies.py`).

    `ping_seconds`: a WebSocket that has been silent for so long is pinged, and closed when it stays
    silent for `pong_seconds` more. None: no pings, and no timer.

    A slow client does not read what is sent to it. By default the application's `send` blocks until
    it reads, and memory stays flat. `slow_seconds`: how long `send` may block; then a WebSocket is
    closed with 1013 ("try again later"), and a response is cut off. `slow_bytes`: how much is kept
    for a slow client of a WebSocket instead of blocking `send`; beyond that it is closed with 1013.

    `access_log`: one line per request, "common" or "json" (see `server/access_log.py`).

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
