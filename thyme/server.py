"""The server: a listening socket, a greenlet per connection, and an orderly end.

gevent is used openly: nothing is patched, and a `Server` runs in whichever thread has called
`start()`, on that thread's hub (a notebook's hub thread included). While nothing happens it makes
no system call: there is no timer and nothing is polled.

Read next: `connection.py`, what happens on one socket; `config.py`, what can be set.
"""

from __future__ import annotations

import socket
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import socket as GeventSocket

from thyme.application import EsqueApplication
from thyme.config import Config
from thyme.connection import Connection
from thyme.http11 import Refusal
from thyme.scope import Place
from thyme.stream import Stream, plain_socket

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
        listening = listening_socket(config.host, config.port, config.backlog)
        listener = StreamServer(listening, self._serve)
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

    def _serve(self, accepted: Any, peer: Any) -> None:
        """The greenlet of one connection."""
        connected = plain_socket(accepted)
        try:
            place = self._place(connected, peer)
        except OSError:  # gone before it was served
            connected.close()
            return
        connection = Connection(Stream(connected), place, self._application, self._config)
        limit = self._config.connections
        if limit is not None and len(self._connections) >= limit:
            connection.refuse(_FULL)
            return
        self._connections[connection] = gevent.getcurrent()
        try:
            connection.run()
        finally:
            del self._connections[connection]

    def _place(self, connected: socket.socket, peer: Any) -> Place:
        root_path = self._config.root_path
        if connected.family not in (socket.AF_INET, socket.AF_INET6):
            return Place(None, (str(connected.getsockname()), None), root_path)
        # We write whole responses and frames: Nagle's algorithm would only hold them back.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Place(tuple(peer[:2]), connected.getsockname()[:2], root_path)


def listening_socket(host: str, port: int, backlog: int) -> Any:
    """A gevent socket that listens on (host, port). Raises `OSError`.

    `host` is an address, or a name that has one; the first one is taken. The look-up may block:
    nobody is served yet, and gevent's own would start a thread.
    """
    look_up = monkey.get_original("socket", "getaddrinfo")
    family, kind, protocol, _, address = look_up(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = GeventSocket(family, kind, protocol)
    try:
        # A server that starts again must not wait for connections of the one before to time out.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return listening
