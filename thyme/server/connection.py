"""One accepted connection: request after request, in one greenlet, which also runs the application.

Decided here: what comes next on the socket (a request, a WebSocket, a refusal, the end), how long
a head may take, and what stopping means for a connection in each of its states. How a request or
a WebSocket is lived through is `server/http_cycle.py`'s and `server/websocket_cycle.py`'s matter.
"""

from __future__ import annotations

import logging
from time import monotonic, time

from gevent import Timeout, sleep

from thyme.asgi import Application
from thyme.config import HEAD_READ_BYTES, Config
from thyme.errors import Disconnected, ReadCancelled
from thyme.protocol.head_rules import Refusal
from thyme.protocol.http11 import ParserEvent, Request, RequestParser
from thyme.protocol.response import refusal_response
from thyme.protocol.scope import Place, http_scope, websocket_scope
from thyme.server.access_log import AccessLog, AccessLogRecord
from thyme.server.http_cycle import HTTPCycle
from thyme.server.metrics import Tally
from thyme.server.proxies import Proxies
from thyme.server.stream import Stream
from thyme.server.websocket_cycle import Conversation

NEWCOMER_SECONDS = 0.5
"""For the first request of a new connection when the server stops: its peer is about to send it."""

SERVER_ERROR = 500  # RFC 9110 15.6

_LOGGER = logging.getLogger("thyme.server")


class Connection:
    """Call `run()` in the greenlet of the connection; `stop()` may come from any other."""

    __slots__ = (
        "_access_log",
        "_application",
        "_config",
        "_conversation",
        "_exchange",
        "_parser",
        "_peer_sends",
        "_place",
        "_proxies",
        "_stopping",
        "_tally",
        "stream",
    )

    def __init__(
        self,
        stream: Stream,
        place: Place,
        application: Application,
        config: Config,
        tally: Tally,
        *,
        access_log: AccessLog | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self.stream = stream
        self._tally = tally
        self._access_log = access_log
        self._proxies = proxies
        self._place = place
        self._application = application
        self._config = config
        self._parser = RequestParser(config)
        self._exchange: HTTPCycle | None = None
        self._conversation: Conversation | None = None
        self._stopping = False
        self._peer_sends = False  # more than we have read, perhaps: it must not miss our last word

    def run(self) -> None:
        """Serve the peer until one side has had enough. Closes the socket."""
        try:
            while self._serve_next():
                pass
            self.stream.flush_coalesced()
            if self._peer_sends and not self.stream.ended:
                self.stream.linger()
        except Exception:  # a mistake of ours: the application's are dealt with where it is called
            _LOGGER.exception("a connection with %s failed", self._place.client)
        finally:
            self.stream.close()

    def count(self, tally: Tally) -> None:
        """Add to `tally` what this connection has moved so far."""
        tally.bytes_received += self.stream.received
        tally.bytes_sent += self.stream.sent
        if self._conversation is not None:
            received, sent = self._conversation.messages
            tally.messages_received += received
            tally.messages_sent += sent
            tally.slow_clients += self._conversation.given_up

    def refuse(self, refusal: Refusal) -> None:
        """Answer with `refusal`, whatever the peer asks for, and close. Instead of `run()`."""
        try:
            self._answer(refusal)
            self.stream.linger()
        finally:
            self.stream.close()

    def stop(self) -> None:
        """Finish what is in progress, begin nothing new: `run()` will return.

        An idle connection ends at once, a request after its response, a WebSocket is closed with
        1001. A new connection has `NEWCOMER_SECONDS` to say what it has come for. May block on a
        peer that does not read.
        """
        self._stopping = True
        if self._conversation is not None:
            self._conversation.go_away()
        elif self._exchange is not None:
            self._exchange.response.keep_alive = False
        else:
            if not self.stream.received:
                sleep(NEWCOMER_SECONDS)
            if self._exchange is None and self._conversation is None:
                self.stream.cancel_read()

    def _serve_next(self) -> bool:
        """Serve one request; whether another may follow."""
        event = self._next_head()
        if isinstance(event, Request):
            if event.websocket:
                return self._converse(event)
            return self._exchange_with(event)
        if isinstance(event, Refusal):
            self._peer_sends = True
            self._tally.bad_requests += 1
            self._answer(event)
        return False

    def _exchange_with(self, request: Request) -> bool:
        place = self._place
        if self._proxies is not None:
            place = self._proxies.seen_through(place, request.headers)
        log = self._access_log
        began = (self.stream.offered, monotonic()) if log is not None else None
        exchange = HTTPCycle(self.stream, self._parser, request, self._config.server_header)
        self._exchange = exchange
        if self._stopping:
            exchange.response.keep_alive = False
        reusable = exchange.run(self._application, http_scope(request, place))
        self._exchange = None
        tally = self._tally
        tally.requests += 1
        if exchange.status >= SERVER_ERROR:
            tally.errors += 1
        if log is not None and began is not None:
            log.write(self._visit(place, request, exchange.status, *began))
        self._peer_sends = not exchange.received or bool(self._parser.events)
        return reusable and not self._stopping

    def _converse(self, request: Request) -> bool:
        leftover = self._parser.leftover
        del self._parser  # HTTP is over, and a WebSocket may live long
        place = self._place
        if self._proxies is not None:
            place = self._proxies.seen_through(place, request.headers)
        began = self.stream.offered, monotonic()
        conversation = Conversation(self.stream, request, leftover, self._config)
        self._conversation = conversation
        self._tally.websockets += 1
        conversation.run(self._application, websocket_scope(request, place))
        self._peer_sends = conversation.peer_sends
        if self._access_log is not None:
            self._access_log.write(self._visit(place, request, conversation.status, *began))
        return False

    def _visit(
        self, place: Place, request: Request, status: int, before: int, began: float
    ) -> AccessLogRecord:
        sent = max(0, self.stream.offered - before)  # the peer may have gone with what was before
        return AccessLogRecord(place, request, status, sent, monotonic() - began, time())

    def _next_head(self) -> ParserEvent | None:
        """A request, a refusal to answer with, or None when there is nothing to answer."""
        parser, config = self._parser, self._config
        if parser.events:
            self.stream.work_done()  # pipelined: it was read with the one before
        elif (self._stopping and self.stream.received) or not self._feed(
            parser, config.keep_alive_seconds
        ):
            return None
        if not parser.events:
            try:
                with Timeout(config.head_seconds) as limit:
                    while not parser.events:
                        if not self._feed(parser):
                            return None
            except Timeout as expired:
                if expired is not limit:
                    raise
                # RFC 9110 15.5.9: 408 "did not receive a complete request message within the
                # time that it was prepared to wait".
                return Refusal(408, f"the head took more than {config.head_seconds} s")
        return parser.events.popleft()

    def _feed(self, parser: RequestParser, seconds: float | None = None) -> bool:
        """Give the parser what the peer sends next; False when that is nothing."""
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
            parser.feed(data)
        return bool(data)

    def _answer(self, refusal: Refusal) -> None:
        try:
            self.stream.write(refusal_response(refusal, self._config.server_header))
        except Disconnected:
            pass
