"""The server: listening sockets, a greenlet per connection, and an orderly shutdown.

gevent is used openly: nothing is patched, and a `Server` runs in whichever thread has called
`start()`, on that thread's hub (also in a notebook's hub thread). While nothing happens it makes no
system call: there is no timer, and nothing is polled.

What happens on one socket is left to `server/connection.py`; where to listen, to
`server/listeners.py`; processes and signals, to `cli/`.

Taught in notebooks/01_sockets.ipynb.
Read next: `server/connection.py`; `config.py`, what can be configured.
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
from thyme.protocol.scope import ConnectionInfo
from thyme.server.access_log import AccessLog
from thyme.server.connection import HTTPConnection
from thyme.server.listeners import (
    DESCRIPTOR,
    listener_url,
    open_listener,
    remove_socket_files,
    tcp_bind,
)
from thyme.server.metrics import ServerCounters
from thyme.server.proxies import Proxies
from thyme.server.refusals import TOO_MANY_CONNECTIONS
from thyme.server.stream import Stream, plain_socket
from thyme.server.tls import EncryptedSocket, server_context

KILL_SECONDS = 1.0
"""For killed greenlets to clean up; then `stop()` returns without them."""

_LOGGER = logging.getLogger("thyme.server")


class Server:
    """Runs `application` for every request and WebSocket on one or several addresses.

    Call `start()`, then `serve_forever()` or anything else that lets the hub run; call `stop()`
    from any greenlet of the same hub. They call the application's `startup()` and `close()`.
    """

    def __init__(
        self, application: Application | BlockingApplication, config: Config | None = None
    ) -> None:
        self.application = as_application(application)
        self._config = config = config or Config()
        self._listeners: list[StreamServer] = []
        self._connections: dict[HTTPConnection, gevent.Greenlet] = {}
        self._stopped = Event()
        self._address: Any = None
        self.urls: list[str] = []  # for people: http://127.0.0.1:8000, …
        self._counters = ServerCounters()  # without those of open connections
        self._tls = None
        if config.certificate is not None:
            self._tls = server_context(config.certificate, config.private_key)
        self._state: dict[str, Any] | None = None
        self._access_log = AccessLog(config.access_log) if config.access_log else None
        self._proxies = Proxies(config.proxies) if config.proxies else None
        self.keep_socket_files = False  # at stop: other processes go on listening there
        self.stopping = False

    def start(self) -> None:
        """Bind, start the application, accept connections.

        Raises `OSError` if an address cannot be bound, `StartupFailed` if the application cannot
        serve.
        """
        config = self._config
        binds = config.binds or (tcp_bind(config.host, config.port),)
        listeners: list[StreamServer] = []
        try:
            for bind in binds:
                listener = StreamServer(open_listener(bind, config.backlog), self._serve)
                if bind.startswith(DESCRIPTOR):
                    listener.max_accept = 1  # other processes accept, too: take turns
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
        self.urls = [listener_url(each.socket, secure=self._tls is not None) for each in listeners]
        self.stopping = False
        self._stopped.clear()

    @property
    def address(self) -> Any:
        """Return (host, port) of the first bind; the port is the real one, also for port 0."""
        if self._address is None:
            raise RuntimeError("the server has no address before start()")
        return self._address

    def serve_forever(self) -> None:
        """Block until `stop()` has finished. Starts the server if it is not running."""
        if not self._listeners:
            self.start()
        self._stopped.wait()

    def stop(self, drain_seconds: float | None = None) -> None:
        """Stop accepting, finish requests, close WebSockets with 1001; then kill what is left.

        `drain_seconds`: for requests and WebSockets to finish (default: the configuration's).
        May be called again to shorten the wait.
        """
        if not self._listeners:
            return
        first, self.stopping = not self.stopping, True
        if first:
            self._stop_listening()
            gevent.sleep(0)  # lets the greenlets of new connections start
        connections = list(self._connections.items())
        # In a greenlet each: a peer that does not read must not delay the others.
        stopping = [gevent.spawn(connection.stop) for connection, _ in connections]
        greenlets = [greenlet for _, greenlet in connections]
        seconds = self._config.drain_seconds if drain_seconds is None else drain_seconds
        gevent.joinall(greenlets, timeout=seconds)
        with gevent.Timeout(KILL_SECONDS, False):  # an application may catch `GreenletExit`
            gevent.killall(stopping + list(self._connections.values()))
        if first:
            self._close_application()
            self._stopped.set()

    def duplicate_sockets(self) -> list[Any]:
        """Return duplicates of the listening sockets, for other processes to accept from."""
        return [open_listener(f"{DESCRIPTOR}{each.socket.fileno()}", 0) for each in self._listeners]

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        if not self.keep_socket_files:
            remove_socket_files(self._config.binds)

    def _close_application(self) -> None:
        try:
            with gevent.Timeout(self._config.drain_seconds, False):
                self.application.close()
        except Exception:
            _LOGGER.exception("the application's close() failed")

    # Figures.

    def counters(self) -> ServerCounters:
        """Return all counts so far, including those of open connections."""
        counters = replace(self._counters)
        for connection in self._connections:
            connection.count(counters)
        return counters

    @property
    def listening(self) -> bool:
        """True from `start()` to `stop()`."""
        return bool(self._listeners) and not self.stopping

    @property
    def open_connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    @property
    def unsent(self) -> int:
        """Bytes written to all peers that the kernel has not taken."""
        return sum(connection.stream.unsent for connection in self._connections)

    # Connections.

    def _serve(self, accepted: Any, peer: Any) -> None:
        """Serve one connection, in a greenlet of its own."""
        connected = plain_socket(accepted)
        try:
            info = self._connection_info(connected, peer)
        except OSError:  # the peer is gone already
            connected.close()
            return
        config, counters = self._config, self._counters
        tls = None if self._tls is None else EncryptedSocket(connected, self._tls)
        stream = Stream(tls or connected, config.slow_seconds)
        connection = HTTPConnection(
            stream,
            info,
            self.application,
            config,
            counters,
            access_log=self._access_log,
            proxies=self._proxies,
        )
        counters.connections += 1
        if config.connections is not None and len(self._connections) >= config.connections:
            counters.refused += 1
            if tls is None or self._handshake(stream):
                connection.refuse(TOO_MANY_CONNECTIONS)
            return
        self._connections[connection] = gevent.getcurrent()
        try:
            if tls is None or self._handshake(stream):
                connection.run()
        finally:
            del self._connections[connection]
            connection.count(counters)

    def _handshake(self, stream: Stream) -> bool:
        """Complete the TLS handshake; if it fails or takes too long, close and return False."""
        completed = False
        try:
            with gevent.Timeout(self._config.head_seconds, False):
                stream.handshake()
                completed = True
        except (OSError, ReadCancelled) as error:
            _LOGGER.debug("TLS handshake failed: %s", error)
        finally:
            if not completed:
                stream.close()
        return completed

    def _connection_info(self, connected: socket.socket, peer: Any) -> ConnectionInfo:
        config = self._config
        secure = config.certificate is not None
        if connected.family not in (socket.AF_INET, socket.AF_INET6):
            name = (str(connected.getsockname()), None)
            return ConnectionInfo(None, name, config.root_path, secure, self._state)
        # Whole responses and frames are written: Nagle's algorithm would only delay them.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends = tuple(peer[:2]), connected.getsockname()[:2]
        return ConnectionInfo(*ends, config.root_path, secure, self._state)
