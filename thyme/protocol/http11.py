"""HTTP/1.1 requests: bytes in, events out. No I/O.

`RequestParser.feed()` takes bytes as they come, cut anywhere, and appends to `events`:

    Request     a head; then
    bytes       pieces of its body, in order; then
    END         the request is complete, and the next may follow (pipelining); or
    Refusal     what came is not acceptable: the status to answer; nothing follows.

The grammar, and the cases of request smuggling in it (RFC 9112 11.2), are httptools' (llhttp in
its strict mode): Content-Length with Transfer-Encoding, several Content-Lengths, bad chunk sizes,
obs-fold, bare CR and LF, NUL. What it lets pass `protocol/head_rules.py` decides: Host, the
target's form, transfer codings, expectations, versions, limits. Both are covered by
tests/thyme/protocol/test_http11.py.

Methods are those llhttp knows (all registered ones but a few); others are refused.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1). Taught in notebooks/03_http.ipynb. Read next:
`protocol/head_rules.py`; `protocol/head_cache.py`, what need not be parsed again;
`protocol/response.py`, the other way; `protocol/scope.py`, what the application sees of a request.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from thyme.config import CHUNK_OVERHEAD_BYTES, Config
from thyme.protocol.head_cache import HeadCache
from thyme.protocol.head_rules import (
    OWS,
    Header,
    Refusal,
    Refused,
    asks_for_websocket,
    bad_host,
    body_too_large,
    check_framing,
    check_host,
    check_size,
    check_version,
    expects_continue,
    head_too_large,
    is_host,
    origin_form,
)

# The fields that decide how a request is read.
_DECIDING: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


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


ParserEvent = Request | bytes | End | Refusal


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
        self._last_fields = HeadCache(min(config.head_bytes, config.target_bytes))
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
            if not isinstance(cause, Refused):
                raise
            self._end(cause.refusal)
        except HttpParserError as error:
            self._end(Refusal(400, f"this is not HTTP/1.1: {error}"))
        except Refused as refused:
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
        self.events.append(Request(method, path, query, "1.1", headers, keep_alive=True))
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
                raise head_too_large(self._config)
        elif self._silence > CHUNK_OVERHEAD_BYTES and self._request is not None:
            raise Refused(400, "too much between two pieces of the body")

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
                raise Refused(414, f"the target is over {self._config.target_bytes} bytes")

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
            raise body_too_large(self._config)
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
            check_size(target, headers, config)
        if version != "1.1" or method == "CONNECT":
            check_version(version, method)
        if target[:1] != b"/" or b"#" in target:
            target = origin_form(target, method, headers)
        path, _, query = target.partition(b"?")
        request = Request(method, path, query, version, headers, parser.should_keep_alive())
        deciding = self._deciding
        if len(deciding) != 1 or deciding[0][0] != b"host":
            self._decide(request, deciding)
        elif not is_host(deciding[0][1]):  # the usual request
            raise bad_host()
        return request

    def _decide(self, request: Request, deciding: list[Header]) -> None:
        fields: dict[bytes, list[bytes]] = {}
        for name, value in deciding:
            fields.setdefault(name, []).append(value)
        check_host(request.http_version, fields.get(b"host", []))
        check_framing(request.http_version, fields, self._config)
        if b"expect" in fields:
            request.expects_continue = expects_continue(request.http_version, fields[b"expect"])
        if b"upgrade" in fields and self._parser.should_upgrade():
            request.websocket = asks_for_websocket(
                request.method, request.http_version, fields[b"upgrade"]
            )
