"""The server: a listening socket, a greenlet per connection, and an orderly end.

gevent is used openly: nothing is patched, and a `Server` runs in whichever thread has called
`start()`, on that thread's hub (a notebook's hub thread included). While nothing happens it makes
no system call: there is no timer and nothing is polled.

Read next: `connection.py`, what happens on one socket; `config.py`, what can be set.
"""

from __future__ import annotations

from typing import Any

import gevent
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import AF_INET, AF_INET6, socket

from thyme.application import EsqueApplication
from thyme.config import Config
from thyme.connection import Connection, prepare
from thyme.http11 import Refusal
from thyme.scope import Place

KILL_SECONDS = 1.0
"""For killed greenlets to clean up, before `stop()` returns without them."""

_FULL = Refusal(503, "too many connections")


class Server:
    """Runs `application` for every request and WebSocket on one address.

    `start()`, then `serve_forever()` or anything else that lets the hub run; `stop()` from any
    greenlet of the same hub.
    """

    def __init__(self, application: EsqueApplication, config: Config | None = None) -> None:
        self._application = application
        self._config = config or Config()
        self._listener: StreamServer | None = None
        self._connections: dict[Connection, gevent.Greenlet] = {}
        self._stopped = Event()

    def start(self) -> None:
        """Bind and accept. Raises `OSError` when the address cannot be had."""
        config = self._config
        listener = StreamServer((config.host, config.port), self._serve, backlog=config.backlog)
        listener.start()
        self._listener = listener
        self._stopped.clear()

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) that it is bound to; the port is the real one also when 0 was asked for."""
        if self._listener is None:
            raise RuntimeError("the server has no address before start()")
        host, port = self._listener.address[:2]
        return host, port

    def serve_forever(self) -> None:
        """Block until `stop()` has done its work. Starts the server if nobody has."""
        if self._listener is None:
            self.start()
        self._stopped.wait()

    def stop(self, drain_seconds: float | None = None) -> None:
        """Refuse new connections, finish requests, close WebSockets with 1001; then kill the rest.

        `drain_seconds`: how long the finishing may take (default: the configuration's).
        """
        if self._listener is None:
            return
        self._listener.close()
        connections = list(self._connections.items())
        # Each in a greenlet of its own: one that does not read must not hold up the others.
        farewells = [gevent.spawn(connection.stop) for connection, _ in connections]
        greenlets = [greenlet for _, greenlet in connections]
        seconds = self._config.drain_seconds if drain_seconds is None else drain_seconds
        gevent.joinall(greenlets, timeout=seconds)
        gevent.killall(farewells + list(self._connections.values()), timeout=KILL_SECONDS)
        self._stopped.set()

    def _serve(self, accepted: socket, peer: Any) -> None:
        """The greenlet of one connection; gevent closes the socket after it."""
        connection = Connection(
            accepted, self._place(accepted, peer), self._application, self._config
        )
        limit = self._config.connections
        if limit is not None and len(self._connections) >= limit:
            connection.refuse(_FULL)
            return
        self._connections[connection] = gevent.getcurrent()
        try:
            connection.run()
        finally:
            del self._connections[connection]

    def _place(self, accepted: socket, peer: Any) -> Place:
        root_path = self._config.root_path
        if accepted.family not in (AF_INET, AF_INET6):
            return Place(None, (str(accepted.getsockname()), None), root_path)
        prepare(accepted)
        return Place(tuple(peer[:2]), accepted.getsockname()[:2], root_path)
