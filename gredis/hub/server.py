"""The hub's sockets: for each connection, one greenlet reads and one writes.

Memory is bounded: a process that does not read what is pushed to it is disconnected at
`MAX_UNSENT_BYTES`, and fetches its messages after reconnecting. Redis limits its subscribers in the
same way.

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

MAX_UNSENT_BYTES = 32 * 1024 * 1024
"""Bytes that may wait for one connection, as in Redis's client-output-buffer-limit for pub/sub."""


class HubServer:
    """A hub listening on `host` and `port` (0: any free port)."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.hub = Hub(lambda: int(time.time() * 1000))
        self._server = StreamServer((host, port), self._serve)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, once started."""
        host, port = self._server.address[:2]
        return host, port

    def start(self) -> None:
        """Bind and accept. Raises `OSError`."""
        self._server.start()

    def stop(self) -> None:
        """Close everything; all groups and messages are lost."""
        self._server.stop(timeout=0)

    def serve_forever(self) -> None:
        """Accept until stopped."""
        self._server.serve_forever(stop_timeout=0)

    def _serve(self, connected: Any, address: Any) -> None:
        _ServedConnection(self.hub, connected).run()


class _ServedConnection:
    """The socket of one process."""

    def __init__(self, hub: Hub, connected: Any) -> None:
        self.socket = connected
        self.connection = HubConnection(hub, self._write)
        self.unsent = bytearray()
        self.has_output = Event()

    def run(self) -> None:
        """Carry out calls until the connection is lost."""
        writer = spawn(self._write_out)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while received := self.socket.recv(READ_BYTES):
                self.connection.receive(received)
        except (OSError, GredisError) as error:
            log.info("connection lost: %s", error)
        finally:
            self.connection.close()
            writer.kill()

    def _write(self, framed: bytes) -> None:
        # Replies and pushes are coalesced: the writer sends all that has come up since its last
        # turn in one piece.
        self.unsent += framed
        self.has_output.set()
        if len(self.unsent) > MAX_UNSENT_BYTES:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def _write_out(self) -> None:
        while True:
            self.has_output.wait()
            self.has_output.clear()
            pending, self.unsent = self.unsent, bytearray()
            try:
                self.socket.sendall(pending)
            except OSError:
                return
