"""One accepted connection: one request after the other, in the greenlet that runs the application.

Decided here: what comes next on the socket (a request, a WebSocket, a refusal, the end), how long a
head may take, and what shutting down means for a connection in each of its states. A request is
served by `server/http_cycle.py`, a WebSocket by `server/websocket_cycle.py`.

Which HTTP protocol is spoken is decided in `choose_protocol()`, and nowhere else.

Sources: RFC 9112 9 (connection management), RFC 9110 15.5.9 (408).
Read next: `server/http_cycle.py`; `server/stream.py`, the bytes; `protocol/http.py`, the seam.
"""

from __future__ import annotations

import logging
from time import monotonic, time

from gevent import Timeout, sleep

from thyme.asgi import Application
from thyme.config import HEAD_READ_BYTES, Config
from thyme.errors import ReadCancelled
from thyme.protocol.http import HTTPEvent, HTTPProtocol, Refusal, Request
from thyme.protocol.http11 import HTTP11
from thyme.protocol.scope import ConnectionInfo, http_scope, websocket_scope
from thyme.server.access_log import AccessLog, AccessLogRecord
from thyme.server.http_cycle import HTTPCycle
from thyme.server.metrics import ServerCounters
from thyme.server.proxies import Proxies
from thyme.server.refusals import head_timed_out, send_refusal
from thyme.server.stream import Stream
from thyme.server.websocket_cycle import WebSocketCycle

NEWCOMER_SECONDS = 0.5
"""At shutdown, for the first request of a new connection: its peer is about to send it."""

SERVER_ERROR = 500  # RFC 9110 15.6

_LOGGER = logging.getLogger("thyme.server")


def choose_protocol(config: Config) -> HTTPProtocol:
    """Return the HTTP protocol of a new connection, after its TLS handshake: HTTP/1.1.

    A second protocol would be chosen here: see `protocol/http.py`.
    """
    return HTTP11(config)


class HTTPConnection:
    """Call `run()` in the greenlet of the connection; `stop()` may be called from any other."""

    __slots__ = (
        "_access_log",
        "_application",
        "_config",
        "_counters",
        "_cycle",
        "_info",
        "_linger_due",
        "_protocol",
        "_proxies",
        "_stopping",
        "_websocket",
        "stream",
    )

    def __init__(
        self,
        stream: Stream,
        info: ConnectionInfo,
        application: Application,
        config: Config,
        counters: ServerCounters,
        *,
        access_log: AccessLog | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self.stream = stream
        self._counters = counters
        self._access_log = access_log
        self._proxies = proxies
        self._info = info
        self._application = application
        self._config = config
        self._cycle: HTTPCycle | None = None
        self._websocket: WebSocketCycle | None = None
        self._stopping = False
        self._linger_due = False  # the peer may still be sending: see `Stream.linger`

    def run(self) -> None:
        """Serve requests until the connection closes."""
        try:
            self._protocol = choose_protocol(self._config)
            while self._serve_next():
                pass
            self.stream.flush_coalesced()
            if self._linger_due and not self.stream.ended:
                self.stream.linger()
        except Exception:  # our bug: the cycles handle the application's errors
            _LOGGER.exception("the connection with %s failed", self._info.client)
        finally:
            self.stream.close()

    def refuse(self, refusal: Refusal) -> None:
        """Send `refusal`, whatever the peer asks for, and close. Call it instead of `run()`."""
        try:
            send_refusal(self.stream, choose_protocol(self._config), refusal)
            self.stream.linger()
        finally:
            self.stream.close()

    def stop(self) -> None:
        """Finish what is in progress and start nothing new; `run()` will return.

        Ends an idle connection at once, a request after its response, and a WebSocket with close
        code 1001. Waits `NEWCOMER_SECONDS` for the first request of a new connection. May block on
        a peer that does not read.
        """
        self._stopping = True
        if self._websocket is not None:
            self._websocket.go_away()
        elif self._cycle is not None:
            self._cycle.response.keep_alive = False
        else:
            if not self.stream.received:
                sleep(NEWCOMER_SECONDS)
            if self._cycle is None and self._websocket is None:
                self.stream.cancel_read()

    def count(self, counters: ServerCounters) -> None:
        """Add to `counters` what this connection has transferred so far."""
        counters.bytes_received += self.stream.received
        counters.bytes_sent += self.stream.sent
        if self._websocket is not None:
            received, sent = self._websocket.messages
            counters.messages_received += received
            counters.messages_sent += sent
            counters.slow_clients += self._websocket.too_slow

    # One request.

    def _serve_next(self) -> bool:
        """Serve one request; return True if another may follow."""
        event = self._next_head()
        if isinstance(event, Request):
            if event.websocket:
                return self._serve_websocket(event)
            return self._serve_request(event)
        if isinstance(event, Refusal):
            self._linger_due = True
            self._counters.bad_requests += 1
            send_refusal(self.stream, self._protocol, event)
        return False

    def _serve_request(self, request: Request) -> bool:
        info = self._info
        if self._proxies is not None:
            info = self._proxies.resolve(info, request.headers)
        log = self._access_log
        began = (self.stream.offered, monotonic()) if log is not None else None
        cycle = HTTPCycle(self.stream, self._protocol, request)
        self._cycle = cycle
        if self._stopping:
            cycle.response.keep_alive = False
        reusable = cycle.run(self._application, http_scope(request, info))
        self._cycle = None
        counters = self._counters
        counters.requests += 1
        if cycle.status >= SERVER_ERROR:
            counters.errors += 1
        if log is not None and began is not None:
            log.write(self._log_record(info, request, cycle.status, *began))
        self._linger_due = not cycle.request_complete or bool(self._protocol.events)
        return reusable and not self._stopping

    def _serve_websocket(self, request: Request) -> bool:
        info = self._info
        if self._proxies is not None:
            info = self._proxies.resolve(info, request.headers)
        began = self.stream.offered, monotonic()
        cycle = WebSocketCycle(self.stream, self._protocol, request, self._config)
        del self._protocol  # HTTP is over: an idle WebSocket keeps no parser (case `raw-memory`)
        self._websocket = cycle
        self._counters.websockets += 1
        cycle.run(self._application, websocket_scope(request, info))
        self._linger_due = cycle.peer_may_send
        if self._access_log is not None:
            self._access_log.write(self._log_record(info, request, cycle.status, *began))
        return False

    def _log_record(
        self, info: ConnectionInfo, request: Request, status: int, offered: int, began: float
    ) -> AccessLogRecord:
        # Never negative: the peer may have left with what was coalesced for the request before.
        sent = max(0, self.stream.offered - offered)
        return AccessLogRecord(info, request, status, sent, monotonic() - began, time())

    # Reading heads.

    def _next_head(self) -> HTTPEvent | None:
        """Return a request, or a refusal to send, or None at the end of the connection.

        Waits in two phases: `keep_alive_seconds` for the first bytes, then `head_seconds` for the
        rest of the head. An idle connection without `keep_alive_seconds` has no timer.
        """
        protocol, config = self._protocol, self._config
        if protocol.events:
            self.stream.work_done()  # pipelined: it was read with the request before
        elif (self._stopping and self.stream.received) or not self._read_more(
            config.keep_alive_seconds
        ):
            return None
        if not protocol.events:
            try:
                with Timeout(config.head_seconds) as limit:
                    while not protocol.events:
                        if not self._read_more():
                            return None
            except Timeout as expired:
                if expired is not limit:
                    raise
                return head_timed_out(config.head_seconds)
        return protocol.events.popleft()

    def _read_more(self, seconds: float | None = None) -> bool:
        """Feed the protocol what the peer sends next; return False at the end, or after `seconds`.

        Reads `HEAD_READ_BYTES` only, so that few pipelined requests are parsed early.
        """
        try:
            if seconds is None:
                data = self.stream.read(HEAD_READ_BYTES)
            else:
                data = b""
                with Timeout(seconds, False):
                    data = self.stream.read(HEAD_READ_BYTES)
        except ReadCancelled:
            return False
        if data:
            self._protocol.feed(data)
        return bool(data)
