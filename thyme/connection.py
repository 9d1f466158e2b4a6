"""One accepted connection: request after request, in one greenlet, which also runs the application.

Decided here: what comes next on the socket (a request, a WebSocket, a refusal, the end), how long
a head may take, and what stopping means for a connection in each of its states. How a request or
a WebSocket is lived through is `exchange.py`'s and `conversation.py`'s matter.
"""

from __future__ import annotations

import logging

from gevent import Timeout

from thyme.application import Disconnected, EsqueApplication
from thyme.config import Config
from thyme.conversation import Conversation
from thyme.errors import ReadCancelled
from thyme.exchange import Exchange
from thyme.http11 import ParserEvent, Refusal, Request, RequestParser
from thyme.response import refusal_response
from thyme.scope import Place, http_scope, websocket_scope
from thyme.stream import Stream

_LOGGER = logging.getLogger("thyme.server")


class Connection:
    """Call `run()` in the greenlet of the connection; `stop()` may come from any other."""

    __slots__ = (
        "_application",
        "_config",
        "_conversation",
        "_exchange",
        "_parser",
        "_peer_sends",
        "_place",
        "_stopping",
        "_stream",
    )

    def __init__(
        self, stream: Stream, place: Place, application: EsqueApplication, config: Config
    ) -> None:
        self._stream = stream
        self._place = place
        self._application = application
        self._config = config
        self._parser = RequestParser(config)
        self._exchange: Exchange | None = None
        self._conversation: Conversation | None = None
        self._stopping = False
        self._peer_sends = False  # more than we have read, perhaps: it must not miss our last word

    def run(self) -> None:
        """Serve the peer until one side has had enough. Closes the socket."""
        try:
            while self._serve_next():
                pass
            if self._peer_sends and not self._stream.ended:
                self._stream.linger()
        except Exception:  # a mistake of ours: the application's are dealt with where it is called
            _LOGGER.exception("a connection with %s failed", self._place.client)
        finally:
            self._stream.close()

    def refuse(self, refusal: Refusal) -> None:
        """Answer with `refusal`, whatever the peer asks for, and close. Instead of `run()`."""
        try:
            self._answer(refusal)
            self._stream.linger()
        finally:
            self._stream.close()

    def stop(self) -> None:
        """Finish what is in progress, begin nothing new: `run()` will return.

        An idle connection ends at once, a request after its response, a WebSocket is closed with
        1001. May block on a peer that does not read.
        """
        self._stopping = True
        if self._conversation is not None:
            self._conversation.go_away()
        elif self._exchange is not None:
            self._exchange.response.keep_alive = False
        else:
            self._stream.cancel_read()

    def _serve_next(self) -> bool:
        """Serve one request; whether another may follow."""
        event = self._next_head()
        if isinstance(event, Request):
            if event.websocket:
                return self._converse(event)
            return self._exchange_with(event)
        if isinstance(event, Refusal):
            self._peer_sends = True
            self._answer(event)
        return False

    def _exchange_with(self, request: Request) -> bool:
        exchange = Exchange(self._stream, self._parser, request, self._config.server_header)
        self._exchange = exchange
        reusable = exchange.run(self._application, http_scope(request, self._place))
        self._exchange = None
        self._peer_sends = not exchange.received or bool(self._parser.events)
        return reusable and not self._stopping

    def _converse(self, request: Request) -> bool:
        leftover = self._parser.leftover
        del self._parser  # HTTP is over, and a WebSocket may live long
        self._conversation = Conversation(self._stream, request, leftover, self._config)
        self._conversation.run(self._application, websocket_scope(request, self._place))
        self._peer_sends = self._conversation.peer_sends
        return False

    def _next_head(self) -> ParserEvent | None:
        """A request, a refusal to answer with, or None when there is nothing to answer."""
        parser, config = self._parser, self._config
        if parser.events:
            self._stream.work_done()  # pipelined: it was read with the one before
        elif self._stopping or not self._feed(parser, config.keep_alive_seconds):
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
                data = self._stream.read()
            else:
                data = b""
                with Timeout(seconds, False):
                    data = self._stream.read()
        except ReadCancelled:
            return False
        if data:
            parser.feed(data)
        return bool(data)

    def _answer(self, refusal: Refusal) -> None:
        try:
            self._stream.write(refusal_response(refusal, self._config.server_header))
        except Disconnected:
            pass
