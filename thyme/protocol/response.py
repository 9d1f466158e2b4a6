"""HTTP/1.1 responses: ASGI's http.response.* events in, bytes out. No I/O.

`Response` decides the framing (Content-Length, chunked, or the end of the connection), adds the
fields that are the server's own (Connection, Date, Server, Transfer-Encoding), decides whether the
connection can be reused, and checks everything that an application sends: an event out of order, a
wrong type, or a header that could split a response is an `ApplicationError`, and no byte of it is
sent. When bytes are written is left to `server/http_cycle.py`.

The head is held back until the first piece of the body, as ASGI requires, so that a short response
is one write and its length is known.

Several functions here are cached (status line, Date, lengths, names), and `_encode_start` handles
the usual field in one branch: the bench case `raw-page` pays for both.

Sources: RFC 9110, RFC 9112; https://asgi.readthedocs.io/en/latest/specs/www.html, "Response
Start", "Response Body"; extensions "HTTP Trailers", "Early Hints". Read next:
`server/http_cycle.py`, which writes these bytes; `protocol/websocket.py`, what may follow HTTP.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from thyme.asgi import Event
from thyme.errors import ApplicationError
from thyme.protocol.head_rules import OWS
from thyme.protocol.http import Header, Refusal

Body = bytes | bytearray | memoryview

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2

CACHED_NAMES = 1024
"""Distinct field names whose check is cached; applications use a few dozen."""

CACHED_LENGTHS = 1024
"""Distinct body lengths whose field is cached: those of a site's usual responses."""

_NUL, _LF, _CR = b"\0\n\r"  # integers: `in` finds them three times as fast as bytes

NO_CONTENT, RESET_CONTENT, NOT_MODIFIED = 204, 205, 304
# RFC 9110 15.3.5, 15.4.5: such a response "is terminated by the end of the header section".
_WITHOUT_CONTENT: Final = frozenset({NO_CONTENT, RESET_CONTENT, NOT_MODIFIED})

# Fields that the server reads, replaces or drops.
_SERVER_FIELDS: Final = frozenset(
    {b"connection", b"content-length", b"date", b"server", b"transfer-encoding"}
)

# The type of the event that the application has to send next.
START: Final = "http.response.start"
BODY: Final = "http.response.body"
HINT: Final = "http.response.early_hint"
TRAILERS: Final = "http.response.trailers"
NOTHING: Final = "nothing more: the response is complete"

# How the peer learns where the body ends (RFC 9112 6.3).
_LENGTH: Final = "Content-Length"
_CHUNKED: Final = "chunked"
_CLOSE: Final = "the end of the connection"
_NONE: Final = "there is no body to send"


class Response:
    """Encodes the events of one response: a `ResponseEncoder` (see `protocol/http.py`).

    `keep_alive`: as the request allows it; the response, and the caller, can only withdraw it.
    """

    # Class attributes hold the initial state, because one object is made per request and
    # most of them never change: bench case `raw-page`.
    begun = False
    complete = False
    _expected: str = START
    _framing: str = _NONE
    _length: int | None = None
    _remaining = 0
    status = 0
    _has_trailers = False
    _has_date = False
    _has_server = False

    def __init__(
        self, method: str, http_version: str, keep_alive: bool, server_header: str = ""
    ) -> None:
        self._method = method
        self._http_version = http_version
        self._server_header = server_header
        self.keep_alive = keep_alive
        self._lines: list[bytes] = []

    def encode(self, event: Event) -> bytes:
        """Return the bytes that carry `event`; none while the head is held back.

        Raises `ApplicationError` if HTTP or ASGI does not allow it here.
        """
        kind = event["type"]
        if kind != self._expected:
            raise ApplicationError(f"got {kind!r}, expected {self._expected!r}")
        if kind == BODY:
            return self._encode_body(event)
        return self._encode_start(event) if kind == START else self._encode_trailers(event)

    def encode_hint(self, event: Event) -> bytes:
        """Return the interim response that carries http.response.early_hint (RFC 8297: 103).

        Raises `ApplicationError` if the response has begun or a link cannot be a field value.
        """
        if self._expected is not START:
            raise ApplicationError(f"got {HINT!r}, expected {self._expected!r}")
        fields = validated_headers([(b"link", link) for link in event.get("links", ())])
        if self._http_version != "1.1":
            # RFC 9110 15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client."
            return b""
        lines = [b"%b: %b\r\n" % field for field in fields]
        return b"".join([b"HTTP/1.1 103 Early Hints\r\n", *lines, b"\r\n"])

    def encode_continue(self) -> bytes:
        """Return the interim response 100 Continue (RFC 9110 15.2.1)."""
        return CONTINUE

    def expect_length(self, length: int) -> None:
        """Announce a body of `length` bytes, unless the application has given the length."""
        if self._expected is BODY and not self.begun and self._length is None:
            self._length = length

    # The head.

    def _encode_start(self, event: Event) -> bytes:
        status = event["status"]
        # RFC 9110 15.2: 1xx are interim responses, which only the server sends.
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise ApplicationError(f"got status {status!r}, expected an int from 200 to 999")
        lines = [_status_line(status)]
        try:
            for name, value in event.get("headers", ()):
                name = _field_name(name)
                if name in _SERVER_FIELDS and not self._note_server_field(name, value):
                    continue
                if _LF in value or _CR in value or _NUL in value:
                    raise _bad_value(name, value)
                lines += name, b": ", value, b"\r\n"
        except (TypeError, ValueError, AttributeError) as error:
            raise ApplicationError(f"headers: expected pairs of bytes: {error}") from error
        self._lines = lines
        self.status = status
        if event.get("trailers"):
            self._has_trailers = True
        self._expected = BODY
        return b""

    def _note_server_field(self, name: bytes, value: bytes) -> bool:
        """Note a field that concerns the server; return True if it is to be sent as it is."""
        if name == b"date":
            self._has_date = True
            return True
        if name == b"server":
            self._has_server = True
            return True
        if name == b"content-length":
            # RFC 9110 8.6: Content-Length = 1*DIGIT.
            if self._length is not None or not value.isdigit():
                raise ApplicationError(f"got content-length {value!r}, expected digits, once")
            self._length = int(value)
        elif name == b"connection":
            options = value.lower().split(b",")
            self.keep_alive &= b"close" not in [option.strip(OWS) for option in options]
        return False  # also Transfer-Encoding: the framing of this hop is the server's

    def _finish_head(self) -> list[bytes]:
        lines = self._lines
        if self._framing is _CHUNKED:
            lines.append(b"transfer-encoding: chunked\r\n")
        elif self._length is not None and self.status != NO_CONTENT:
            # RFC 9110 8.6: "A server MUST NOT send a Content-Length header field in any response
            # with a status code of 1xx (Informational) or 204 (No Content)."
            lines.append(_length_field(self._length))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self._http_version == "1.0":
            # RFC 9112 9.3: HTTP/1.0 persists only with the "keep-alive" connection option.
            lines.append(b"connection: keep-alive\r\n")
        date = 0 if self._has_date else int(time.time())
        lines.append(_last_lines(date, "" if self._has_server else self._server_header))
        return lines

    def _choose_framing(self, body: Body, more: bool) -> str:
        if self.status == RESET_CONTENT:
            self._length = 0  # RFC 9110 15.3.6: "a server MUST NOT generate content in a 205"
        # RFC 9110 9.3.2: "the server MUST NOT send content in the response" to HEAD.
        if self._method == "HEAD" or self.status in _WITHOUT_CONTENT:
            return _NONE
        if self._length is None and not (more or self._has_trailers):
            self._length = len(body)
        if self._length is not None:
            return _LENGTH
        # RFC 9112 6.1: "A server MUST NOT send a response containing Transfer-Encoding unless the
        # corresponding request indicates HTTP/1.1 (or later minor revisions)."
        if self._http_version == "1.1":
            return _CHUNKED
        self.keep_alive = False
        return _CLOSE

    # The body.

    def _encode_body(self, event: Event) -> bytes:
        body = event.get("body", b"")
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise ApplicationError(f"got a body of type {type(body).__name__}, expected bytes")
        more = bool(event.get("more_body", False))
        if self.begun:
            data = self._frame_body(body, more)
        else:
            self._framing = self._choose_framing(body, more)
            self._remaining = self._length or 0
            content = self._frame_body(body, more)
            lines = self._finish_head()
            lines.append(content)
            data = b"".join(lines)
            self.begun = True
        if not more:
            self._expected = TRAILERS if self._has_trailers else NOTHING
            self.complete = not self._has_trailers
        return data

    def _frame_body(self, body: Body, more: bool) -> bytes:
        if self._framing is _LENGTH:
            return self._count_body(body, more)
        if self._framing is _NONE:
            return b""
        if self._framing is _CLOSE:
            return bytes(body)
        # RFC 9112 7.1; a chunk of no bytes would be the last.
        chunk = b"%x\r\n%b\r\n" % (len(body), bytes(body)) if body else b""
        if more:
            return chunk
        return chunk + (b"0\r\n" if self._has_trailers else b"0\r\n\r\n")

    def _count_body(self, body: Body, more: bool) -> bytes:
        # RFC 9112 6.3: the peer would read surplus bytes as the next response, and wait for
        # missing ones.
        self._remaining -= len(body)
        if self._remaining < 0:
            raise ApplicationError(
                f"the body is {-self._remaining} bytes longer than its content-length"
            )
        if self._remaining and not more:
            raise ApplicationError(
                f"the body is {self._remaining} bytes shorter than its content-length"
            )
        return body if type(body) is bytes else bytes(body)

    def _encode_trailers(self, event: Event) -> bytes:
        fields = validated_headers(event.get("headers", ()))
        for name, _ in fields:
            # RFC 9110 6.5.1: no trailers for framing, routing, and the like.
            if name in _SERVER_FIELDS:
                raise ApplicationError(f"{name!r} cannot be a trailer")
        more = bool(event.get("more_trailers", False))
        self.complete = not more
        self._expected = TRAILERS if more else NOTHING
        if self._framing is not _CHUNKED:
            return b""  # RFC 9110 6.5: only chunked messages can carry trailers
        return b"".join([b"%b: %b\r\n" % field for field in fields]) + b"\r\n" * (not more)


def refusal_response(refusal: Refusal, server_header: str) -> bytes:
    """Return the whole response to a request that is refused: plain text; ends the connection."""
    text = f"{refusal.status} {_phrase(refusal.status)}: {refusal.reason}\n".encode()
    response = Response("GET", "1.1", keep_alive=False, server_header=server_header)
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *refusal.headers]
    response.encode({"type": START, "status": refusal.status, "headers": headers})
    return response.encode({"type": BODY, "body": text})


def validated_headers(headers: Iterable[Header]) -> list[Header]:
    """Return the `headers` of an application, with lower-case names.

    Raises `ApplicationError` for a name that is no token, and for a value that is not bytes or
    could split the header.
    """
    fields = []
    for name, value in headers:
        name = _field_name(name)
        if not isinstance(value, bytes):
            raise ApplicationError(f"{name!r}: got {type(value).__name__}, expected bytes")
        if _LF in value or _CR in value or _NUL in value:
            raise _bad_value(name, value)
        fields.append((name, value))
    return fields


def _bad_value(name: bytes, value: bytes) -> ApplicationError:
    # RFC 9110 5.5: "Field values containing CR, LF, or NUL characters are invalid and dangerous,
    # due to the varying ways that implementations might parse and interpret those characters".
    # The message does not contain the value: it is logged, and the value may be confidential.
    return ApplicationError(
        f"{name!r}: got a value of {len(value)} bytes with CR, LF or NUL, which is not allowed"
    )


@lru_cache(CACHED_NAMES)
def _field_name(name: bytes) -> bytes:
    # RFC 9110 5.1: a field name is a token, and case-insensitive; ASGI has them in lower case.
    if not isinstance(name, bytes) or _TOKEN.fullmatch(name) is None:
        raise ApplicationError(f"got header name {name!r}, expected a token, as bytes")
    return name.lower()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@lru_cache
def _status_line(status: int) -> bytes:
    # RFC 9112 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]. RFC 9110 2.5:
    # the version is the server's own, also in a response to an HTTP/1.0 peer.
    return b"HTTP/1.1 %d %b\r\n" % (status, _phrase(status).encode("ascii"))


@lru_cache(maxsize=4)
def _last_lines(second: int, server_header: str) -> bytes:
    """Return Date (of `second` since the epoch; 0: none), Server, and the empty line of a head."""
    # RFC 9110 6.6.1: "An origin server with a clock MUST generate a Date header field in all 2xx,
    # 3xx, and 4xx responses". Formatted at most once a second.
    date = f"date: {formatdate(second, usegmt=True)}\r\n" if second else ""
    server = f"server: {server_header}\r\n" if server_header else ""
    return f"{date}{server}\r\n".encode("ascii")


@lru_cache(CACHED_LENGTHS)
def _length_field(length: int) -> bytes:
    return b"content-length: %d\r\n" % length
