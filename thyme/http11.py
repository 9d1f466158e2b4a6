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

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1). Read next: `response.py`, the other way;
`scope.py`, what the application sees of a request.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from thyme.config import CHUNK_OVERHEAD_BYTES, Config

Header = tuple[bytes, bytes]

OWS = b" \t"  # RFC 9110 5.6.3, optional white space
FIELD_FRAME_BYTES = len(b": \r\n")

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


class RequestParser:
    """Reads the requests of one connection. Call `feed()`, then take from `events`.

    `leftover` holds what followed a WebSocket request: the first bytes of frames.
    """

    __slots__ = (
        "_body_size",
        "_config",
        "_content_length",
        "_expectation",
        "_head_size",
        "_headers",
        "_hosts",
        "_overhead",
        "_parser",
        "_refusal",
        "_request",
        "_resuming",
        "_target",
        "_transfer_coding",
        "_upgrade",
        "events",
        "in_head",
        "leftover",
    )

    def __init__(self, config: Config) -> None:
        self._config = config
        self._parser = HttpRequestParser(self)
        self._refusal: Refusal | None = None
        self._resuming = False
        self.events: deque[ParserEvent] = deque()
        self.leftover = b""
        self.in_head = False
        """Whether a head has begun and is not complete."""
        self._begin()

    def _begin(self) -> None:
        self._request: Request | None = None
        self._target = b""
        self._headers: list[Header] = []
        self._hosts: list[bytes] = []
        self._content_length: int | None = None
        self._transfer_coding: bytes | None = None
        self._expectation: bytes | None = None
        self._upgrade = b""
        self._head_size = 0
        self._body_size = 0
        self._overhead = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the peer; take what they mean from `events`."""
        if self._refusal is not None:
            return
        was_in_head = self.in_head
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._after_upgrade(data[upgrade.args[0] :])
        except HttpParserError as error:
            self._end(self._refusal or Refusal(400, f"this is not HTTP/1.1: {error}"))
        else:
            if was_in_head and self.in_head and self._overhead > self._config.head_bytes:
                self._end(Refusal(431, f"the head is over {self._config.head_bytes} bytes"))
            elif self._request is not None and self._overhead > CHUNK_OVERHEAD_BYTES:
                self._end(Refusal(400, "too much between two chunks"))

    def _end(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self.in_head = False
        self.events.append(refusal)

    def _refuse(self, status: int, reason: str) -> HttpParserError:
        self._refusal = Refusal(status, reason)
        return HttpParserError(reason)

    def _after_upgrade(self, rest: bytes) -> None:
        """The parser stops after any request with an Upgrade; go on, unless we do upgrade.

        RFC 9110 7.8: "A server MAY ignore a received Upgrade header field if it wishes to
        continue using the current protocol on that connection". The body is still to be read
        (Java's HttpClient sends `Upgrade: h2c` with POST), and a new parser must be told how long
        it is: it is given a head that says only that.
        """
        request = self._request
        if request is None or request.websocket:
            self.leftover = rest
            return
        framing = b""
        if self._transfer_coding is not None:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif self._content_length is not None:
            framing = b"Content-Length: %d\r\n" % self._content_length
        self._parser = HttpRequestParser(self)
        self._resuming = True
        self.feed(b"POST / HTTP/1.1\r\n" + framing + b"\r\n" + rest)

    # What httptools calls.

    def on_message_begin(self) -> None:
        if not self._resuming:
            self._begin()
            self.in_head = True

    def on_url(self, url: bytes) -> None:
        if self._resuming:
            return
        self._target += url
        if len(self._target) > self._config.target_bytes:
            # RFC 9112 3: "a server that receives a request-target longer than any URI it wishes
            # to parse MUST respond with a 414 (URI Too Long) status code".
            raise self._refuse(414, f"the target is over {self._config.target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._request is not None:
            return  # a trailer: RFC 9110 6.5.1 lets us discard it, ASGI has no place for it
        name = name.lower()
        if value and value[-1] in OWS:
            value = value.rstrip(OWS)
        headers = self._headers
        headers.append((name, value))
        self._head_size += len(name) + len(value) + FIELD_FRAME_BYTES
        config = self._config
        if self._head_size > config.head_bytes or len(headers) > config.header_fields:
            # RFC 6585 5: 431 Request Header Fields Too Large.
            raise self._refuse(
                431, f"the head is over {config.head_bytes} bytes or {config.header_fields} fields"
            )
        if name in _NOTED:
            _NOTED[name](self, value)

    def _note_host(self, value: bytes) -> None:
        self._hosts.append(value)

    def _note_content_length(self, value: bytes) -> None:
        self._content_length = int(value)

    def _note_transfer_encoding(self, value: bytes) -> None:
        self._transfer_coding = value.lower()

    def _note_expect(self, value: bytes) -> None:
        self._expectation = value.lower()

    def _note_upgrade(self, value: bytes) -> None:
        self._upgrade += b"," + value.lower()

    def on_headers_complete(self) -> None:
        self._overhead = 0
        if self._resuming:
            self._resuming = False
            return
        self.in_head = False
        parser = self._parser
        version = parser.get_http_version()
        method = parser.get_method().decode("ascii")
        self._check_version(version, method)
        self._check_framing(version)
        path, _, query = self._origin_form(method).partition(b"?")
        self._check_host(version)
        request = Request(method, path, query, version, self._headers, parser.should_keep_alive())
        if self._expectation is not None:
            request.expects_continue = self._check_expectation(version)
        if self._upgrade and parser.should_upgrade():
            request.websocket = self._asks_for_websocket(version, method)
        self._request = request
        self.events.append(request)

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        self._body_size += len(body)
        if self._body_size > self._config.body_bytes:
            raise self._too_large()
        self.events.append(body)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return  # what follows is for _after_upgrade() to say
        self._request = None
        self.events.append(END)

    # The rules llhttp leaves to us.

    def _check_version(self, version: str, method: str) -> None:
        if version not in ("1.1", "1.0"):
            # RFC 9110 15.6.6: 505 HTTP Version Not Supported.
            raise self._refuse(505, f"HTTP/{version} is not spoken here, HTTP/1.1 is")
        if method == "CONNECT":
            # RFC 9110 9.3.6: "An origin server MAY accept a CONNECT request"; we do not.
            raise self._refuse(501, "this is no proxy: CONNECT is not implemented")

    def _check_framing(self, version: str) -> None:
        if self._transfer_coding is not None:
            if version == "1.0":
                # RFC 9112 6.1: "A server or client that receives an HTTP/1.0 message containing
                # a Transfer-Encoding header field MUST treat the message as if the framing is
                # faulty".
                raise self._refuse(400, "HTTP/1.0 has no Transfer-Encoding")
            if self._transfer_coding != b"chunked":
                # RFC 9112 6.1: "A server that receives a request message with a transfer coding
                # it does not understand SHOULD respond with 501 (Not Implemented)."
                raise self._refuse(501, "the only transfer coding understood is chunked")
        elif self._content_length is not None and self._content_length > self._config.body_bytes:
            raise self._too_large()

    def _too_large(self) -> HttpParserError:
        # RFC 9110 15.5.14: 413 Content Too Large.
        return self._refuse(413, f"the body is over {self._config.body_bytes} bytes")

    def _origin_form(self, method: str) -> bytes:
        """The target as path and query (RFC 9112 3.2.1), whatever its form."""
        target = self._target
        if b"#" in target:
            # RFC 9112 3.2: none of the forms of a request-target has a fragment.
            raise self._refuse(400, "a target has no fragment")
        if target[:1] == b"/" or (target == b"*" and method == "OPTIONS"):
            return target
        # RFC 9112 3.2.2: "a server MUST accept the absolute-form in requests".
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise self._refuse(400, "the target is neither a path nor an http URI")
        authority, rest = absolute[1], absolute[2] or b""
        # RFC 9112 3.2.2: an origin server "MUST ignore the received Host header field (if any)
        # and instead replace it with the host information of the request-target".
        if len(self._hosts) == 1 and _HOST.fullmatch(self._hosts[0]):
            self._hosts = [authority]
            self._headers = [
                (name, authority if name == b"host" else value) for name, value in self._headers
            ]
        return rest if rest[:1] == b"/" else b"/" + rest

    def _check_host(self, version: str) -> None:
        # RFC 9112 3.2: "A server MUST respond with a 400 (Bad Request) status code to any
        # HTTP/1.1 request message that lacks a Host header field and to any request message that
        # contains more than one Host header field line or a Host header field with an invalid
        # field value."
        hosts = self._hosts
        if len(hosts) == 1:
            if _HOST.fullmatch(hosts[0]) is None:
                raise self._refuse(400, "the Host field is not a host")
        elif hosts or version == "1.1":
            raise self._refuse(400, f"got {len(hosts)} Host fields, expected one")

    def _check_expectation(self, version: str) -> bool:
        # RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0
        # request MUST ignore that expectation", and "A server that receives an Expect field value
        # containing a member other than 100-continue MAY respond with a 417".
        if version == "1.0":
            return False
        if self._expectation != b"100-continue":
            raise self._refuse(417, "the only expectation met is 100-continue")
        return True

    def _asks_for_websocket(self, version: str, method: str) -> bool:
        # RFC 9110 7.8: "A server that receives an Upgrade header field in an HTTP/1.0 request
        # MUST ignore that Upgrade field." RFC 6455 4.1: "The method of the request MUST be GET".
        protocols = [protocol.strip(OWS) for protocol in self._upgrade.split(b",")]
        return version == "1.1" and method == "GET" and b"websocket" in protocols


_NOTED: Final[dict[bytes, Callable[[RequestParser, bytes], None]]] = {
    b"host": RequestParser._note_host,
    b"content-length": RequestParser._note_content_length,
    b"transfer-encoding": RequestParser._note_transfer_encoding,
    b"expect": RequestParser._note_expect,
    b"upgrade": RequestParser._note_upgrade,
}
"""The fields that decide how a request is read."""
