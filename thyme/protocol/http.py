"""The seam between a connection and the HTTP protocol that it speaks. No I/O.

An `HTTPProtocol` turns the bytes of one connection into events, and responses into bytes:

    feed(bytes)           then take from `events`:
        Request             a head; then
        bytes               pieces of its body, in order; then
        END                 the request is complete, and the next one may follow; or
        Refusal             what came is unacceptable: send `refuse(refusal)`; nothing follows
    respond_to(request)   a `ResponseEncoder`: ASGI's http.response.* events in, bytes out

`server/connection.py` and `server/http_cycle.py` know only what is defined here. HTTP/1.1, in
`protocol/http11.py`, is the one implementation so far; `choose_protocol()` in
`server/connection.py` is the only place that names it.

How HTTP/2 (RFC 9113) would plug in. The seam is cut per request in progress, because that is what
HTTP/1.1 and a *stream* of HTTP/2 have in common:

* `protocol/http2.py` has one `HTTPProtocol` per stream: `events` are those of the stream, `refuse`
  and the encoder give its HEADERS and DATA frames. What the streams share (the preface, HPACK,
  SETTINGS, both flow-control windows) is an object of the connection, behind them.
* HTTP/1.1 serves the requests of a connection one after the other, so `HTTPConnection` reads and
  serves in one greenlet. HTTP/2 needs another connection class: one greenlet reads and dispatches
  frames, and each request gets a greenlet that runs the same `HTTPCycle`. Instead of the `Stream`
  that cycle gets a `RequestStream` (`server/stream.py`) of its own, which waits for the events and
  the flow-control window of one stream.
* WebSockets stay on HTTP/1.1, as RFC 8441 is optional: `Request.websocket` is False.
* `choose_protocol()` decides by ALPN ("h2", RFC 9113 3.2) or by the preface of a client with prior
  knowledge (3.3), and `server/tls.py` offers the name.

Read next: `protocol/http11.py`, bytes to events; `protocol/response.py`, events to bytes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from thyme.asgi import Event

Header = tuple[bytes, bytes]
"""Name (in lower case) and value of a header field."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is not served: the status, the reason (sent to the peer), more header fields.

    `server/refusals.py` lists those of the server itself; parsers make their own.
    """

    status: int
    reason: str
    headers: tuple[Header, ...] = ()


@dataclass(slots=True)
class Request:
    """The head of a request.

    `path` and `query` are still percent-encoded; `headers` have lower-case names, and values
    without white space around them. `keep_alive`: the peer allows the connection to be reused
    (RFC 9112 9.3). `websocket`: the peer asks for RFC 6455, and no HTTP follows on this connection.
    """

    method: str
    path: bytes
    query: bytes
    http_version: str
    headers: list[Header]
    keep_alive: bool
    expects_continue: bool = False
    websocket: bool = False


class End(Enum):
    """The mark after the last byte of a request."""

    END = "end of request"


END: Final = End.END

HTTPEvent = Request | bytes | End | Refusal


class ResponseEncoder(Protocol):
    """Encodes one response. The methods raise `ApplicationError` for what HTTP cannot carry.

    `begun`: bytes were given out, so no other response can take its place. `complete`: nothing may
    follow. `status`: as the application gave it, 0 before. `keep_alive`: the connection can be
    reused after this response; may be set to False until `begun`.
    """

    begun: bool
    complete: bool
    status: int
    keep_alive: bool

    def encode(self, event: Event) -> bytes:
        """Return the bytes that carry `event`, an http.response.start, .body or .trailers.

        Empty when the head is held back until the first piece of the body.
        """

    def encode_hint(self, event: Event) -> bytes:
        """Return the interim response for http.response.early_hint (RFC 8297: 103)."""

    def encode_continue(self) -> bytes:
        """Return the interim response 100 Continue (RFC 9110 15.2.1)."""

    def expect_length(self, length: int) -> None:
        """Announce a body of `length` bytes, unless the application has given the length."""


class HTTPProtocol(Protocol):
    """One HTTP protocol on one connection.

    `events`: what has been read, for the caller to take. `leftover`: the bytes behind a request
    for a WebSocket, which are its first frames.
    """

    events: deque[HTTPEvent]
    leftover: bytes

    def feed(self, data: bytes) -> None:
        """Take the peer's next bytes, cut anywhere; append what they mean to `events`."""

    def respond_to(self, request: Request) -> ResponseEncoder:
        """Return an encoder for the response to `request`."""

    def refuse(self, refusal: Refusal) -> bytes:
        """Return a whole response, in plain text, after which the connection is to be closed."""
