"""HTTP/1.1 responses: ASGI's http.response.* events in, bytes out. No I/O.

Decided here: the framing (Content-Length, chunked, or the end of the connection), the fields that
are the server's own business (Connection, Date, Server, Transfer-Encoding), whether the connection
can be used again, and that what an application sends can be carried at all: a wrong order, a wrong
type or a header that would smuggle is an `ApplicationError`, and not a byte of it is sent.

The head is held back until the first piece of body, as ASGI demands, so that a short answer is one
write and its length is known.

Sources: RFC 9110, RFC 9112; https://asgi.readthedocs.io/en/latest/specs/www.html, "Response
Start", "Response Body"; extensions "HTTP Trailers". Read next: `connection.py`, where they meet.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from thyme.errors import ApplicationError
from thyme.http11 import OWS, Refusal

Event = dict[str, Any]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2

NAMES_REMEMBERED = 1024
"""Distinct field names that are checked once only; applications use a few dozen."""

# RFC 9110 15.3.5 and 15.4.5: 204 and 304 responses end with the header section.
_NO_CONTENT: Final = frozenset({204, 304})
_RESET_CONTENT: Final = 205


class Awaited(Enum):
    """What the application has to send next."""

    START = "http.response.start"
    BODY = "http.response.body"
    TRAILERS = "http.response.trailers"
    NOTHING = "nothing more: the response is complete"


class Framing(Enum):
    """How the peer learns where the body ends (RFC 9112 6.3)."""

    LENGTH = "Content-Length"
    CHUNKED = "chunked"
    CLOSE = "the end of the connection"
    NONE = "there is none to send"


class Response:
    """Encodes the events of one response. `encode()` each; then look at the attributes.

    `begun`: bytes were given out, so no other response can take its place. `complete`: nothing
    may follow. `keep_alive`: the connection can be used again; may be set to False until `begun`.
    """

    __slots__ = (
        "_awaited",
        "_dated",
        "_fields",
        "_framing",
        "_has_trailers",
        "_http_version",
        "_length",
        "_method",
        "_served",
        "_server_header",
        "_status",
        "begun",
        "keep_alive",
    )

    def __init__(
        self, method: str, http_version: str, keep_alive: bool, server_header: str = ""
    ) -> None:
        self._method = method
        self._http_version = http_version
        self._server_header = server_header
        self._awaited = Awaited.START
        self._framing = Framing.NONE
        self._length: int | None = None
        self._has_trailers = False
        self._dated = self._served = False
        self.begun = False
        self.keep_alive = keep_alive

    @property
    def complete(self) -> bool:
        return self._awaited is Awaited.NOTHING

    def encode(self, event: Event) -> bytes:
        """The bytes that carry `event`, perhaps none yet.

        Raises `ApplicationError` when HTTP or ASGI does not allow it here.
        """
        kind = event["type"]
        if kind != self._awaited.value:
            raise ApplicationError(f"got {kind!r}, expected {self._awaited.value!r}")
        if self._awaited is Awaited.BODY:
            return self._body(event)
        if self._awaited is Awaited.START:
            return self._start(event)
        return self._trailers(event)

    # The head.

    def _start(self, event: Event) -> bytes:
        status = event["status"]
        # 1xx are interim responses (RFC 9110 15.2): they are the server's.
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise ApplicationError(f"got status {status!r}, expected an int from 200 to 999")
        fields = [_status_line(status)]
        for name, value in event.get("headers", ()):
            name = _field_name(name)
            _check_value(name, value)
            if name not in _OURS or self._accept(name, value, status):
                fields.append(b"%b: %b\r\n" % (name, value))
        self._status = status
        self._fields = fields
        self._has_trailers = bool(event.get("trailers", False))
        self._awaited = Awaited.BODY
        return b""

    def _accept(self, name: bytes, value: bytes, status: int) -> bool:
        """Note a field that concerns us; whether to send it as it is."""
        if name == b"date":
            self._dated = True
        elif name == b"server":
            self._served = True
        elif name == b"content-length":
            return self._note_length(value, status)
        elif name == b"connection":
            options = value.lower().split(b",")
            self.keep_alive &= b"close" not in [option.strip(OWS) for option in options]
            return False
        else:  # Transfer-Encoding: the framing of this hop is the server's (RFC 9112 6.1)
            return False
        return True

    def _note_length(self, value: bytes, status: int) -> bool:
        # RFC 9110 8.6: Content-Length = 1*DIGIT.
        if not value.isdigit():
            raise ApplicationError(f"got content-length {value!r}, expected digits")
        if self._length is not None:
            raise ApplicationError("got a second content-length")
        self._length = int(value)
        # RFC 9110 8.6: "A server MUST NOT send a Content-Length header field in any response with
        # a status code of 1xx (Informational) or 204 (No Content)." 205 (15.3.6) has none or zero.
        return status not in (204, _RESET_CONTENT)

    def _head(self, body: bytes, more: bool) -> bytes:
        fields = self._fields
        self._framing = self._choose_framing(more)
        if self._framing is Framing.CHUNKED:
            fields.append(b"transfer-encoding: chunked\r\n")
        elif self._framing is Framing.LENGTH and self._length is None:
            self._length = len(body)
            fields.append(b"content-length: %d\r\n" % self._length)
        elif self._framing is Framing.CLOSE:
            self.keep_alive = False
        elif self._status == _RESET_CONTENT:
            fields.append(b"content-length: 0\r\n")
        if not self.keep_alive:
            fields.append(b"connection: close\r\n")
        elif self._http_version == "1.0":
            # RFC 9112 9.3: HTTP/1.0 persists only with the "keep-alive" connection option.
            fields.append(b"connection: keep-alive\r\n")
        if not self._dated:
            fields.append(_date_field(int(time.time())))
        if self._server_header and not self._served:
            fields.append(b"server: %b\r\n" % self._server_header.encode("ascii"))
        fields.append(b"\r\n")
        self.begun = True
        return b"".join(fields)

    def _choose_framing(self, more: bool) -> Framing:
        # RFC 9110 9.3.2: "the server MUST NOT send content in the response" to HEAD.
        if self._method == "HEAD" or self._status in _NO_CONTENT or self._status == _RESET_CONTENT:
            return Framing.NONE
        if self._length is not None or not (more or self._has_trailers):
            return Framing.LENGTH
        # RFC 9112 6.1: "A server MUST NOT send a response containing Transfer-Encoding unless the
        # corresponding request indicates HTTP/1.1 (or later minor revisions)."
        return Framing.CHUNKED if self._http_version == "1.1" else Framing.CLOSE

    # The body.

    def _body(self, event: Event) -> bytes:
        body = event.get("body", b"")
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise ApplicationError(f"got a body of type {type(body).__name__}, expected bytes")
        more = bool(event.get("more_body", False))
        head = b"" if self.begun else self._head(body, more)
        framed = self._framed(body, more)
        if not more:
            self._awaited = Awaited.TRAILERS if self._has_trailers else Awaited.NOTHING
        return head + framed if head else framed

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self._framing is Framing.NONE:
            return b""
        if self._framing is Framing.LENGTH:
            return self._measured(body, more)
        if self._framing is Framing.CLOSE:
            return body
        # RFC 9112 7.1; a chunk of no bytes would be the last.
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        if more:
            return chunk
        return chunk + (b"0\r\n" if self._has_trailers else b"0\r\n\r\n")

    def _measured(self, body: bytes, more: bool) -> bytes:
        # RFC 9112 6.3: the peer takes what is over for the next response, and waits for what is
        # missing.
        assert self._length is not None
        self._length -= len(body)
        if self._length < 0:
            raise ApplicationError(f"the body is {-self._length} bytes over its content-length")
        if self._length and not more:
            raise ApplicationError(f"the body is {self._length} bytes short of its content-length")
        return body

    def _trailers(self, event: Event) -> bytes:
        fields = []
        for name, value in event.get("headers", ()):
            name = _field_name(name)
            _check_value(name, value)
            # RFC 9110 6.5.1: a sender MUST NOT generate trailers that frame or route.
            if name in _OURS:
                raise ApplicationError(f"{name!r} cannot be a trailer")
            fields.append(b"%b: %b\r\n" % (name, value))
        more = bool(event.get("more_trailers", False))
        if not more:
            self._awaited = Awaited.NOTHING
        if self._framing is not Framing.CHUNKED:
            return b""  # RFC 9110 6.5: only some framings have a place for trailers
        return b"".join(fields) + (b"" if more else b"\r\n")


_OURS: Final = frozenset(
    {b"connection", b"content-length", b"date", b"server", b"transfer-encoding"}
)
"""Fields that the server reads, replaces or drops."""


def refusal_response(refusal: Refusal, server_header: str, *fields: tuple[bytes, bytes]) -> bytes:
    """A whole response that says no, in plain text, and ends the connection."""
    text = f"{refusal.status} {_phrase(refusal.status)}: {refusal.reason}\n".encode()
    response = Response("GET", "1.1", keep_alive=False, server_header=server_header)
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *fields]
    response.encode({"type": Awaited.START.value, "status": refusal.status, "headers": headers})
    return response.encode({"type": Awaited.BODY.value, "body": text})


def field_lines(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """`headers` of an application, checked as those of a response are."""
    checked = []
    for name, value in headers:
        name = _field_name(name)
        _check_value(name, value)
        checked.append((name, value))
    return checked


@lru_cache(NAMES_REMEMBERED)
def _field_name(name: bytes) -> bytes:
    # RFC 9110 5.1: a field name is a token, and case-insensitive; ASGI: "must be lowercased".
    if not isinstance(name, bytes) or _TOKEN.fullmatch(name) is None:
        raise ApplicationError(f"got {name!r}, expected a header name: a token, as bytes")
    return name.lower()


def _check_value(name: bytes, value: bytes) -> None:
    # RFC 9110 5.5: "Field values containing CR, LF, or NUL characters are invalid and dangerous".
    if not isinstance(value, bytes):
        raise ApplicationError(f"{name!r}: got {type(value).__name__}, expected bytes")
    if b"\n" in value or b"\r" in value or b"\0" in value:
        raise ApplicationError(f"{name!r}: a value has no CR, LF or NUL; got {value!r}")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@lru_cache
def _status_line(status: int) -> bytes:
    # RFC 9112 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]; RFC 9110 2.5:
    # the version is the server's own, also to an HTTP/1.0 peer.
    return b"HTTP/1.1 %d %b\r\n" % (status, _phrase(status).encode("ascii"))


@lru_cache(maxsize=1)
def _date_field(second: int) -> bytes:
    # RFC 9110 6.6.1: "An origin server with a clock MUST generate a Date header field in all 2xx,
    # 3xx, and 4xx responses". Made once a second, when somebody asks.
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
