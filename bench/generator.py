"""The load generator: one process with an epoll loop, raw sockets and prepared frames.

It must be cheap, or it would measure itself: one `send`, one `recv` and one comparison per message.
Each function takes connections and does a fixed amount of work; the caller reads the clocks.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from dataclasses import dataclass, field

HANDSHAKE = (
    "GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT = b"hello, how are you?"
"""The message of all cases."""

SECONDS = 60.0
"""After which a case is aborted: a server that loses messages must not block the run."""

ENOUGH_SECONDS = 12.0
"""After which no further requests are sent; those answered by then are counted."""


class GaveUp(Exception):
    """The server did not answer in time, or not as expected."""


def masked(text: bytes) -> bytes:
    """Return `text`, of less than 126 bytes, as a masked frame (RFC 6455 5.2, 5.3)."""
    mask = os.urandom(4)
    body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
    return bytes([0x81, 0x80 | len(text)]) + mask + body


def unmasked(text: bytes) -> bytes:
    """Return `text` as a frame of a server."""
    return bytes([0x81, len(text)]) + text


@dataclass(slots=True)
class Peer:
    """One connection, with the bytes that it waits for and the requests that are left."""

    socket: socket.socket
    missing: int = 0
    left: int = 0
    latencies: list[float] = field(default_factory=list)
    since: float = 0.0


def connect(port: int) -> socket.socket:
    """Return a connected TCP socket."""
    connected = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def websockets(port: int, paths: list[str]) -> list[Peer]:
    """Open a WebSocket for each path."""
    peers = []
    for path in paths:
        opened = connect(port)
        opened.sendall(HANDSHAKE.format(path=path).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := opened.recv(4096)):
                raise GaveUp(f"{path}: closed during the handshake")
            head += data
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise GaveUp(f"{path}: {head[:60]!r}")
        peers.append(Peer(opened))
    return peers


def close(peers: list[Peer]) -> None:
    """Close all with a close frame, code 1000 (RFC 6455 5.5.1)."""
    for peer in peers:
        try:
            peer.socket.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
        except OSError:
            pass
        peer.socket.close()


def ping_pong(peers: list[Peer], request: bytes, reply_bytes: int, each: int) -> list[float]:
    """Let each peer send `request` and wait for `reply_bytes`, `each` times.

    Returns the latencies in seconds. No requests are sent after `ENOUGH_SECONDS`.
    """
    until = time.perf_counter() + ENOUGH_SECONDS
    with selectors.DefaultSelector() as selector:
        for peer in peers:
            peer.socket.setblocking(False)
            selector.register(peer.socket, selectors.EVENT_READ, peer)
            peer.left, peer.missing, peer.since = each, reply_bytes, time.perf_counter()
            peer.latencies = []
            peer.socket.send(request)
        busy = len(peers)
        while busy:
            ready = selector.select(SECONDS)
            if not ready:
                raise GaveUp(f"{busy} of {len(peers)} peers had no answer for {SECONDS} s")
            for key, _ in ready:
                peer = key.data
                data = peer.socket.recv(65536)
                if not data:
                    raise GaveUp("the server closed a connection")
                peer.missing -= len(data)
                if peer.missing > 0:
                    continue
                now = time.perf_counter()
                peer.latencies.append(now - peer.since)
                peer.left -= 1
                if peer.left and now < until:
                    peer.missing, peer.since = reply_bytes, now
                    peer.socket.send(request)
                else:
                    busy -= 1
    return [latency for peer in peers for latency in peer.latencies]


def receive_all(peers: list[Peer], expected_bytes: int, seconds: float = SECONDS) -> int:
    """Read until all peers have `expected_bytes`, or nothing arrives for `seconds`.

    Returns the number of missing bytes.
    """
    with selectors.DefaultSelector() as selector:
        for peer in peers:
            peer.missing += expected_bytes
            if peer.missing > 0:
                peer.socket.setblocking(False)
                selector.register(peer.socket, selectors.EVENT_READ, peer)
        while selector.get_map():
            ready = selector.select(seconds)
            if not ready:
                break
            for key, _ in ready:
                data = key.data.socket.recv(1 << 20)
                key.data.missing -= len(data)
                if not data or key.data.missing <= 0:
                    selector.unregister(key.fileobj)
    lost = sum(max(peer.missing, 0) for peer in peers)
    for peer in peers:
        peer.missing = min(peer.missing, 0)
    return lost
