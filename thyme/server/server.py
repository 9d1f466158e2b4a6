"""The server: listening sockets, a greenlet per connection, and an orderly end.

gevent is used openly: nothing is patched, and a `Server` runs in whichever thread has called
`start()`, on that thread's hub (a notebook's hub thread included). While nothing happens it makes
no system call: there is no timer and nothing is polled.

Taught in notebooks/01_sockets.ipynb.
Read next: `server/connection.py`, what happens on one socket; `config.py`, what can be set;
`server/listeners.py`, where it listens.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from typing import Any

import gevent
from gevent.event import Event
from gevent.server import StreamServer

from thyme.asgi import Application, BlockingApplication, as_application
from thyme.config import Config
from thyme.errors import ReadCancelled
from thyme.protocol.head_rules import Refusal
from thyme.protocol.scope import Place
from thyme.server.access_log import AccessLog
from thyme.server.connection import Connection
from thyme.server.listeners import DESCRIPTOR, listening, place_name, remove_sockets, tcp_bind
from thyme.server.metrics import Tally
from thyme.server.proxies import Proxies
from thyme.server.stream import Stream, plain_socket
from thyme.server.tls import EncryptedSocket, server_context

KILL_SECONDS = 1.0
"""For killed greenlets to clean up, before `stop()` returns without them."""

_FULL = Refusal(503, "too many connections")

_LOGGER = logging.getLogger("thyme.server")


class Server:
    """Runs `application` for every request and WebSocket on one address, or several.

    `start()`, then `serve_forever()` or anything else that lets the hub run; `stop()` from any
    greenlet of the same hub. `startup()` and `close()` of the application, if it has them, are
    called by the two (see `server/lifespan.py`).
    """

    def __init__(
        self, application: Application | BlockingApplication, config: Config | None = None
    ) -> None:
        self.application = as_application(application)
        self._config = config = config or Config()
        self._listeners: list[StreamServer] = []
        self._connections: dict[Connection, gevent.Greenlet] = {}
        self._stopped = Event()
        self._address: Any = None
        self.places: list[str] = []  # where it listens, for people: http://127.0.0.1:8000, …
        self._ended = Tally()
        self._tls = None
        if config.certificate is not None:
            self._tls = server_context(config.certificate, config.private_key)
        self._state: dict[str, Any] | None = None
        self._access_log = AccessLog(config.access_log) if config.access_log else None
        self._proxies = Proxies(config.proxies) if config.proxies else None
        self.handed_over = False  # to others who listen in the same places, and go on
        self.stopping = False

    def start(self) -> None:
        """Bind, let the application start, accept.

        Raises `OSError` when an address cannot be had, `StartupFailed` when the application
        cannot serve.
        """
        config = self._config
        binds = config.binds or (tcp_bind(config.host, config.port),)
        listeners: list[StreamServer] = []
        try:
            for bind in binds:
                listener = StreamServer(listening(bind, config.backlog), self._serve)
                if bind.startswith(DESCRIPTOR):
                    listener.max_accept = 1  # others accept there, too: no more than one's share
                listeners.append(listener)
            self._state = self.application.startup()
            for listener in listeners:
                listener.start()
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        self._listeners = listeners
        self._address = tuple(listeners[0].socket.getsockname()[:2])
        self.places = [place_name(each.socket, secure=self._tls is not None) for each in listeners]
        self.stopping = False
        self._stopped.clear()

    @property
    def address(self) -> Any:
        """(host, port) of the first bind; the port is the real one also when 0 was asked for."""
        if self._address is None:
            raise RuntimeError("the server has no address before start()")
        return self._address

    def serve_forever(self) -> None:
        """Block until `stop()` has done its work. Starts the server if nobody has."""
        if not self._listeners:
            self.start()
        self._stopped.wait()

    def stop(self, drain_seconds: float | None = None) -> None:
        """Refuse new connections, finish requests, close WebSockets with 1001; then kill the rest.

        `drain_seconds`: how long the finishing may take (default: the configuration's).
        """
        if not self._listeners:
            return
        first, self.stopping = not self.stopping, True
        if first:
            self._stop_listening()
            gevent.sleep(0)  # those that were accepted just now begin
        connections = list(self._connections.items())
        # Each in a greenlet of its own: one that does not read must not hold up the others.
        farewells = [gevent.spawn(connection.stop) for connection, _ in connections]
        greenlets = [greenlet for _, greenlet in connections]
        seconds = self._config.drain_seconds if drain_seconds is None else drain_seconds
        gevent.joinall(greenlets, timeout=seconds)
        with gevent.Timeout(KILL_SECONDS, False):  # an application may not want to die
            gevent.killall(farewells + list(self._connections.values()))
        if first:
            self._close_application()
            self._stopped.set()

    def copied_sockets(self) -> list[Any]:
        """Copies of the listening sockets, for others to accept from."""
        return [listening(f"{DESCRIPTOR}{each.socket.fileno()}", 0) for each in self._listeners]

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        if not self.handed_over:
            remove_sockets(self._config.binds)

    def _close_application(self) -> None:
        try:
            with gevent.Timeout(self._config.drain_seconds, False):
                self.application.close()
        except Exception:
            _LOGGER.exception("the application's close() failed")

    # What is going on.

    def tally(self) -> Tally:
        """What has been counted so far, open connections included."""
        tally = replace(self._ended)
        for connection in self._connections:
            connection.count(tally)
        return tally

    @property
    def open_connections(self) -> int:
        """How many."""
        return len(self._connections)

    @property
    def unsent(self) -> int:
        """Bytes that were written to all peers and that the kernel has not taken."""
        return sum(connection.stream.unsent for connection in self._connections)

    # Connections.

    def _serve(self, accepted: Any, peer: Any) -> None:
        """The greenlet of one connection."""
        connected = plain_socket(accepted)
        try:
            place = self._place(connected, peer)
        except OSError:  # gone before it was served
            connected.close()
            return
        config, tally = self._config, self._ended
        tls = None if self._tls is None else EncryptedSocket(connected, self._tls)
        stream = Stream(tls or connected, config.slow_seconds)
        connection = Connection(
            stream,
            place,
            self.application,
            config,
            tally,
            access_log=self._access_log,
            proxies=self._proxies,
        )
        tally.connections += 1
        if config.connections is not None and len(self._connections) >= config.connections:
            tally.refused += 1
            if tls is None or self._handshake(stream):
                connection.refuse(_FULL)
            return
        self._connections[connection] = gevent.getcurrent()
        try:
            if tls is None or self._handshake(stream):
                connection.run()
        finally:
            del self._connections[connection]
            connection.count(tally)

    def _handshake(self, stream: Stream) -> bool:
        """Whether TLS was agreed upon in time; else the connection is closed."""
        agreed = False
        try:
            with gevent.Timeout(self._config.head_seconds, False):
                stream.handshake()
                agreed = True
        except (OSError, ReadCancelled) as error:
            _LOGGER.debug("no TLS: %s", error)
        finally:
            if not agreed:
                stream.close()
        return agreed

    def _place(self, connected: socket.socket, peer: Any) -> Place:
        config = self._config
        secure = config.certificate is not None
        if connected.family not in (socket.AF_INET, socket.AF_INET6):
            name = (str(connected.getsockname()), None)
            return Place(None, name, config.root_path, secure, self._state)
        # We write whole responses and frames: Nagle's algorithm would only hold them back.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends = tuple(peer[:2]), connected.getsockname()[:2]
        return Place(*ends, config.root_path, secure, self._state)
