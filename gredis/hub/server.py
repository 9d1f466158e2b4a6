"""The hub's sockets: one greenlet reads a connection, one writes what is meant for it.

Memory is bounded: a process that does not read what is pushed to it is cut off at `UNWRITTEN`
bytes and fetches its messages when it comes back, as with Redis's limit for subscribers.

Taught in notebooks/12_redis_or_sockets.ipynb. Read next: `__main__.py`.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

from gevent import socket, spawn
from gevent.event import Event
from gevent.server import StreamServer

from gredis.errors import GredisError
from gredis.hub.state import Hub, HubConnection

log = logging.getLogger("gredis.hub")

READ_BYTES = 64 * 1024
"""Bytes received at once."""

UNWRITTEN = 32 * 1024 * 1024
"""Bytes that may wait for one connection, as Redis's client-output-buffer-limit for pub/sub."""


class HubServer:
    """Listens on `host` and `port` (0: any free one)."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.hub = Hub(lambda: int(time.time() * 1000))
        self._server = StreamServer((host, port), self._serve)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, once started."""
        host, port = self._server.address[:2]
        return host, port

    def start(self) -> None:
        """Bind and accept; raises `OSError`."""
        self._server.start()

    def stop(self) -> None:
        """Close everything; what was stored is forgotten."""
        self._server.stop(timeout=0)

    def serve_forever(self) -> None:
        """Accept until stopped."""
        self._server.serve_forever(stop_timeout=0)

    def _serve(self, connected: Any, address: Any) -> None:
        _Served(self.hub, connected).run()


class _Served:
    """The socket of one process."""

    def __init__(self, hub: Hub, connected: Any) -> None:
        self.socket = connected
        self.connection = HubConnection(hub, self._write)
        self.unwritten = bytearray()
        self.written = Event()

    def run(self) -> None:
        """Carry out calls until the connection is lost."""
        writer = spawn(self._write_out)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while received := self.socket.recv(READ_BYTES):
                self.connection.receive(received)
        except (OSError, GredisError) as error:
            log.info("a connection is lost: %s", error)
        finally:
            self.connection.close()
            writer.kill()

    def _write(self, framed: bytes) -> None:
        self.unwritten += framed
        self.written.set()
        if len(self.unwritten) > UNWRITTEN:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def _write_out(self) -> None:
        while True:
            self.written.wait()
            self.written.clear()
            gathered, self.unwritten = self.unwritten, bytearray()
            try:
                self.socket.sendall(gathered)
            except OSError:
                return
