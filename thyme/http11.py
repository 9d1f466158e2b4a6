"""HTTP/1.1 requests: bytes in, events out. No I/O.

`RequestParser.feed()` takes bytes as they come, cut anywhere, and appends to `events`:

    Request     a head; then
    bytes       pieces of its body, in order; then
    END         the request is complete, and the next may follow (pipelining); or
    Refusal     what came is not acceptable: the status to answer; nothing follows.

The grammar, and the cases of request smuggling in it (RFC 9112 11.2), are httptools' (llhttp in
its strict mode): Content-Length with Transfer-Encoding, several Content-Lengths, bad chunk sizes,
obs-fold, bare CR and LF, NUL. What it lets pass is decided here: Host, the target's form,
transfer codings, expectations, versions, limits. tests/thyme/test_http11.py holds both.

Methods are those llhttp knows (all registered ones but a few); others are refused.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1). Taught in notebooks/03_http.ipynb. Read next:
`response.py`, the other way; `scope.py`, what the application sees of a request; `repeats.py`, what
need not be parsed again.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from thyme.config import CHUNK_OVERHEAD_BYTES, Config
from thyme.repeats import LastFields

Header = tuple[bytes, bytes]

OWS = b" \t"  # RFC 9110 5.6.3, optional white space
FIELD_FRAME_BYTES = len(b": \r\n")

# The fields that decide how a request is read.
_DECIDING: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})

HOSTS_REMEMBERED = 1024
"""Distinct Host values that are checked once only; a site has a handful."""

# RFC 9112 3.2, RFC 3986 3.2.2: uri-host [ ":" port ]; may be empty.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*)(?::[0-9]*)?")
# RFC 9112 3.2.2: absolute-form = absolute-URI, here of the two schemes we can be asked for.
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE | re.DOTALL)


@dataclass(slots=True)
class Request:
    """The head of a request.

    `path` and `query` are still percent-encoded; `headers` have lower-case names, and values
    without white space around them. `keep_alive`: the peer lets the connection be used again
    (RFC 9112 9.3). `websocket`: it asks for RFC 6455, and no HTTP follows on this connection.
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request we do not serve: the status to answer with, and why, for the peer to read."""

    status: int
    reason: str


ParserEvent = Request | bytes | End | Refusal


class _Refused(Exception):
    """Raised inside the parser's callbacks; `feed()` makes an event of it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(status, reason)


class RequestParser:
    """Reads the requests of one connection. Call `feed()`, then take from `events`.

    `in_head`: a head has begun and is not complete. `leftover`: what followed a WebSocket request,
    which are the first bytes of frames.
    """

    __slots__ = (
        "_between",
        "_body_size",
        "_config",
        "_deciding",
        "_headers",
        "_last_fields",
        "_parser",
        "_patience",
        "_refused",
        "_request",
        "_resuming",
        "_silence",
        "_target",
        "events",
        "in_head",
        "leftover",
    )

    def __init__(self, config: Config) -> None:
        self._config = config
        self._patience = min(config.head_bytes, CHUNK_OVERHEAD_BYTES)
        self._parser = HttpRequestParser(self)
        self._refused = False
        self._resuming = False
        self._request: Request | None = None
        self._target = b""
        self._headers: list[Header] = []
        self._deciding: list[Header] = []
        self._body_size = 0
        self._between = True  # two requests: nothing of the next has come
        self._last_fields = LastFields(min(config.head_bytes, config.target_bytes))
        self._silence = 0  # bytes since the head began, or since the last piece of body
        self.events: deque[ParserEvent] = deque()
        self.in_head = False
        self.leftover = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the peer; take what they mean from `events`."""
        was_between = self._between
        if self._refused or (was_between and self._repeats(data)):
            return
        rest: bytes | None = None
        was_in_head, known = self.in_head, len(self.events)
        self._silence += len(data)
        try:
            self._parser.feed_data(data)
            if was_between and self._between and len(self.events) == known + 2:
                self._remember(data)
            if self._silence > self._patience:
                self._check_silence(was_in_head)
        except HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, _Refused):
                raise
            self._end(cause.refusal)
        except HttpParserError as error:
            self._end(Refusal(400, f"this is not HTTP/1.1: {error}"))
        except _Refused as refused:
            self._end(refused.refusal)
        if rest is not None:  # out of the handler, which would be the context of further errors
            self._after_upgrade(rest)

    def _remember(self, data: bytes) -> None:
        """Keep the fields of `data`, which was one request, if they say nothing about a body."""
        request = self.events[-2]
        if isinstance(request, Request) and len(self._deciding) == 1:  # which is Host
            self._last_fields.remember(data, request.headers)

    def _repeats(self, data: bytes) -> bool:
        """Take `data` if it is a request with the very fields of the one before."""
        again = self._last_fields.read(data)
        if again is None:
            return False
        method, path, query, headers = again
        self.events.append(Request(method, path, query, "1.1", headers, True))
        self.events.append(END)
        return True

    def _end(self, refusal: Refusal) -> None:
        self._refused = True
        self.in_head = False
        self.events.append(refusal)

    def _check_silence(self, was_in_head: bool) -> None:
        """Bound what is parsed without giving an event.

        The bytes of one `feed()` are never too many: the check of a whole head is exact.
        """
        if self.in_head:
            if was_in_head and self._silence > self._config.head_bytes:
                raise _head_too_large(self._config)
        elif self._silence > CHUNK_OVERHEAD_BYTES and self._request is not None:
            raise _Refused(400, "too much between two pieces of the body")

    def _after_upgrade(self, rest: bytes) -> None:
        """llhttp stops after any head with an Upgrade; go on, unless we do upgrade.

        RFC 9110 7.8: "A server MAY ignore a received Upgrade header field if it wishes to
        continue using the current protocol on that connection." The body is still to be read
        (Java's HttpClient sends `Upgrade: h2c` with POST), and a new parser must be told how long
        it is: it is given a head that says only that.
        """
        request = self._request
        if request is None or request.websocket:
            self.leftover = rest
            return
        framing = [b"%b: %b\r\n" % field for field in request.headers if field[0] in _FRAMING]
        self._parser = HttpRequestParser(self)
        self._resuming = True
        self.feed(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n" + rest)

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._between = False
        if not self._resuming:
            self.in_head = True
            self._request = None
            self._target = b""
            self._headers = []
            self._deciding = []
            self._body_size = 0

    def on_url(self, url: bytes) -> None:
        if self.in_head:
            self._target += url
            if len(self._target) > self._config.target_bytes:
                # RFC 9112 3: "A server that receives a request-target longer than any URI it
                # wishes to parse MUST respond with a 414 (URI Too Long) status code."
                raise _Refused(414, f"the target is over {self._config.target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:
            name = name.lower()
            field = (name, value.rstrip(OWS))
            self._headers.append(field)
            if name in _DECIDING:
                self._deciding.append(field)
        # Else a trailer: RFC 9110 6.5.1 lets us discard it, and ASGI has no place for it.

    def on_headers_complete(self) -> None:
        if self.in_head:
            self._request = request = self._complete_head()
            self.in_head = False
            self.events.append(request)
        self._resuming = False
        self._silence = 0

    def on_body(self, body: bytes) -> None:
        self._silence = 0
        self._body_size += len(body)
        if self._body_size > self._config.body_bytes:
            raise _body_too_large(self._config)
        self.events.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_upgrade():  # else _after_upgrade() says what follows
            self._between = self._request is not None and self._request.keep_alive
            self._request = None
            self.events.append(END)

    def _complete_head(self) -> Request:
        parser, headers, target, config = self._parser, self._headers, self._target, self._config
        method = str(parser.get_method(), "ascii")
        version = parser.get_http_version()
        if len(headers) > config.header_fields or self._silence > config.head_bytes:
            _check_size(target, headers, config)
        if version != "1.1" or method == "CONNECT":
            _check_version(version, method)
        if target[:1] != b"/" or b"#" in target:
            target = _origin_form(target, method, headers)
        path, _, query = target.partition(b"?")
        request = Request(method, path, query, version, headers, parser.should_keep_alive())
        deciding = self._deciding
        if len(deciding) != 1 or deciding[0][0] != b"host":
            self._decide(request, deciding)
        elif not _is_host(deciding[0][1]):  # the usual request
            raise _bad_host()
        return request

    def _decide(self, request: Request, deciding: list[Header]) -> None:
        fields: dict[bytes, list[bytes]] = {}
        for name, value in deciding:
            fields.setdefault(name, []).append(value)
        _check_host(request.http_version, fields.get(b"host", []))
        _check_framing(request.http_version, fields, self._config)
        if b"expect" in fields:
            request.expects_continue = _expects_continue(request.http_version, fields[b"expect"])
        if b"upgrade" in fields and self._parser.should_upgrade():
            request.websocket = _asks_for_websocket(request, fields[b"upgrade"])


# The rules that llhttp leaves to us.


def _check_size(target: bytes, headers: list[Header], config: Config) -> None:
    size = len(target) + sum(len(name) + len(value) + FIELD_FRAME_BYTES for name, value in headers)
    if len(headers) > config.header_fields or size > config.head_bytes:
        raise _head_too_large(config)


def _head_too_large(config: Config) -> _Refused:
    # RFC 6585 5: 431 Request Header Fields Too Large.
    return _Refused(
        431, f"the head is over {config.head_bytes} bytes or {config.header_fields} fields"
    )


def _body_too_large(config: Config) -> _Refused:
    # RFC 9110 15.5.14: 413 Content Too Large.
    return _Refused(413, f"the body is over {config.body_bytes} bytes")


def _check_version(version: str, method: str) -> None:
    if version != "1.1" and version != "1.0":
        # RFC 9110 15.6.6: 505 HTTP Version Not Supported.
        raise _Refused(505, f"HTTP/{version} is not spoken here, HTTP/1.1 is")
    if method == "CONNECT":
        # RFC 9110 9.3.6: "An origin server MAY accept a CONNECT request"; we are no proxy.
        raise _Refused(501, "CONNECT is for proxies")


def _check_framing(version: str, fields: dict[bytes, list[bytes]], config: Config) -> None:
    if b"transfer-encoding" in fields:
        if version == "1.0":
            # RFC 9112 6.1: "A server or client that receives an HTTP/1.0 message containing a
            # Transfer-Encoding header field MUST treat the message as if the framing is faulty".
            raise _Refused(400, "HTTP/1.0 has no Transfer-Encoding")
        if [coding.lower() for coding in fields[b"transfer-encoding"]] != [b"chunked"]:
            # RFC 9112 6.1: "A server that receives a request message with a transfer coding it
            # does not understand SHOULD respond with 501 (Not Implemented)."
            raise _Refused(501, "the only transfer coding understood is chunked")
    elif b"content-length" in fields and int(fields[b"content-length"][0]) > config.body_bytes:
        raise _body_too_large(config)


def _origin_form(target: bytes, method: str, headers: list[Header]) -> bytes:
    """`target` as path and query (RFC 9112 3.2.1), whatever its form was; puts its host right."""
    if b"#" in target:
        # RFC 9112 3.2: no form of a request-target has a fragment.
        raise _Refused(400, "a target has no fragment")
    if target == b"*" and method == "OPTIONS":
        return target  # RFC 9112 3.2.4, asterisk-form
    # RFC 9112 3.2.2: "a server MUST accept the absolute-form in requests".
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise _Refused(400, "the target is neither a path nor an http URI")
    authority, rest = absolute[1], absolute[2] or b""
    if not _is_host(authority):
        raise _bad_host()
    for place, (name, _) in enumerate(headers):
        if name == b"host":
            # RFC 9112 3.2.2: "the origin server MUST ignore the received Host header field (if
            # any) and instead use the host information of the request-target".
            headers[place] = (name, authority)
    return rest if rest[:1] == b"/" else b"/" + rest


def _check_host(version: str, hosts: list[bytes]) -> None:
    # RFC 9112 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1
    # request message that lacks a Host header field and to any request message that contains more
    # than one Host header field line or a Host header field with an invalid field value."
    if len(hosts) == 1:
        if not _is_host(hosts[0]):
            raise _bad_host()
    elif hosts or version == "1.1":
        raise _Refused(400, f"got {len(hosts)} Host fields, expected one")


def _bad_host() -> _Refused:
    return _Refused(400, "the Host field is not a host")


@lru_cache(HOSTS_REMEMBERED)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _expects_continue(version: str, expectations: list[bytes]) -> bool:
    # RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request
    # MUST ignore that expectation." "A server that receives an Expect field value containing a
    # member other than 100-continue MAY respond with a 417".
    if version == "1.0":
        return False
    if [expectation.lower() for expectation in expectations] != [b"100-continue"]:
        raise _Refused(417, "the only expectation met is 100-continue")
    return True


def _asks_for_websocket(request: Request, upgrades: list[bytes]) -> bool:
    # RFC 9110 7.8: "A server that receives an Upgrade header field in an HTTP/1.0 request MUST
    # ignore that Upgrade field." RFC 6455 4.1: "The method of the request MUST be GET".
    protocols = [protocol.strip(OWS) for protocol in b",".join(upgrades).lower().split(b",")]
    right = request.http_version == "1.1" and request.method == "GET"
    return right and b"websocket" in protocols
