"""HTTP/1.1 requests: bytes in, events out. No I/O.

`RequestParser.feed()` takes bytes as they arrive, cut anywhere, and appends to `events` what
`protocol/http.py` defines: a `Request`, pieces of its body, END; or a `Refusal`, and nothing more.
`HTTP11` adds the other direction and so is a whole `HTTPProtocol`.

The grammar, with all the known cases of request smuggling (RFC 9112 11.2), is left to httptools
(llhttp in its strict mode): Content-Length beside Transfer-Encoding, several Content-Lengths, bad
chunk sizes, obs-fold, bare CR and LF, NUL. What llhttp lets pass is decided in
`protocol/head_rules.py`: Host, the form of the target, transfer codings, expectations, versions,
limits. Methods are those that llhttp knows (nearly all registered ones); others are refused.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1). Taught in notebooks/03_http.ipynb.
Read next: `protocol/head_rules.py`; `protocol/head_cache.py`, which heads are not parsed again;
`protocol/response.py`, the other direction; `protocol/scope.py`, a request as applications see it.
"""

from __future__ import annotations

from collections import deque
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
    Refused,
    bad_host,
    body_too_large,
    check_framing,
    check_host,
    check_size,
    check_version,
    expects_continue,
    head_too_large,
    is_host,
    is_websocket_upgrade,
    origin_form,
)
from thyme.protocol.http import END, Header, HTTPEvent, Refusal, Request
from thyme.protocol.response import Response, refusal_response

# The fields that decide how a request is read; all others are the application's.
_CONTROL_FIELDS: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
)
_FRAMING_FIELDS: Final = frozenset({b"content-length", b"transfer-encoding"})


class RequestParser:
    """Reads the requests of one connection. Call `feed()`, then take from `events`.

    `leftover`: the bytes behind a request for a WebSocket, which are its first frames.
    """

    __slots__ = (
        "_between_requests",
        "_body_size",
        "_config",
        "_control_fields",
        "_head_cache",
        "_headers",
        "_in_head",
        "_overhead",
        "_overhead_unchecked",
        "_parser",
        "_refused",
        "_request",
        "_resuming",
        "_target",
        "events",
        "leftover",
    )

    def __init__(self, config: Config) -> None:
        self._config = config
        self._parser = HttpRequestParser(self)
        self._refused = False
        self._resuming = False
        self._request: Request | None = None
        self._target = b""
        self._headers: list[Header] = []
        self._control_fields: list[Header] = []
        self._body_size = 0
        self._in_head = False  # a head has begun and is incomplete
        self._between_requests = True  # nothing of the next request has arrived
        self._head_cache = HeadCache(min(config.head_bytes, config.target_bytes))
        self._overhead = 0  # bytes since the head began, or since the last piece of the body
        self._overhead_unchecked = min(config.head_bytes, CHUNK_OVERHEAD_BYTES)
        self.events: deque[HTTPEvent] = deque()
        self.leftover = b""

    def feed(self, data: bytes) -> None:
        """Take the peer's next bytes; append what they mean to `events`."""
        was_between = self._between_requests
        if self._refused or (was_between and self._feed_cached(data)):
            return
        rest: bytes | None = None
        was_in_head, known = self._in_head, len(self.events)
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
            if was_between and self._between_requests and len(self.events) == known + 2:
                self._cache_head(data)
            if self._overhead > self._overhead_unchecked:
                self._check_overhead(was_in_head)
        except HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, Refused):
                raise
            self._refuse(cause.refusal)
        except HttpParserError as error:
            self._refuse(Refusal(400, f"malformed HTTP/1.1 request: {error}"))
        except Refused as refused:
            self._refuse(refused.refusal)
        if rest is not None:  # outside of the handler, which would be the context of later errors
            self._resume_after_upgrade(rest)

    # The head cache: see `protocol/head_cache.py`.

    def _cache_head(self, data: bytes) -> None:
        """Cache the header fields of `data`, a complete request, if they announce no body."""
        request = self.events[-2]
        if isinstance(request, Request) and len(self._control_fields) == 1:  # which is Host
            self._head_cache.store(data, request.headers)

    def _feed_cached(self, data: bytes) -> bool:
        """Take `data` if it is one request with the same fields as the one before."""
        found = self._head_cache.lookup(data)
        if found is None:
            return False
        method, path, query, headers = found
        self.events.append(Request(method, path, query, "1.1", headers, keep_alive=True))
        self.events.append(END)
        return True

    # Refusals and limits.

    def _refuse(self, refusal: Refusal) -> None:
        self._refused = True
        self._in_head = False
        self.events.append(refusal)

    def _check_overhead(self, was_in_head: bool) -> None:
        """Bound the bytes that are parsed without giving an event.

        A head is limited in two phases. While it is incomplete, this check counts raw bytes after
        each `feed()`, so that no peer can send an endless head; but only those of a head that had
        begun in an earlier `feed()`, because the bytes of one `feed()` may be of several requests.
        Once it is complete, `check_size()` counts its own target and fields exactly. Between two
        pieces of a body the limit is that for chunk extensions and trailers.
        """
        if self._in_head:
            if was_in_head and self._overhead > self._config.head_bytes:
                raise head_too_large(self._config)
        elif self._overhead > CHUNK_OVERHEAD_BYTES and self._request is not None:
            raise Refused(400, "too many bytes between two pieces of the body")

    def _resume_after_upgrade(self, rest: bytes) -> None:
        """Continue with HTTP after a head with Upgrade, unless it asks for a WebSocket.

        RFC 9110 7.8: "A server MAY ignore a received Upgrade header field if it wishes to
        continue using the current protocol on that connection." llhttp, however, stops after any
        such head, and its body is still to be read (Java's HttpClient sends `Upgrade: h2c` with
        POST). A new parser has to learn how long the body is: it gets a made-up head with nothing
        but the framing fields, whose callbacks are ignored (`_resuming`).
        """
        request = self._request
        if request is None or request.websocket:
            self.leftover = rest
            return
        framing = [
            b"%b: %b\r\n" % field for field in request.headers if field[0] in _FRAMING_FIELDS
        ]
        self._parser = HttpRequestParser(self)
        self._resuming = True
        self.feed(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n" + rest)

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        self._between_requests = False
        if not self._resuming:
            self._in_head = True
            self._request = None
            self._target = b""
            self._headers = []
            self._control_fields = []
            self._body_size = 0

    def on_url(self, url: bytes) -> None:
        if self._in_head:
            self._target += url
            if len(self._target) > self._config.target_bytes:
                # RFC 9112 3: "A server that receives a request-target longer than any URI it
                # wishes to parse MUST respond with a 414 (URI Too Long) status code."
                raise Refused(414, f"the request target exceeds {self._config.target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            name = name.lower()
            field = (name, value.rstrip(OWS))
            self._headers.append(field)
            if name in _CONTROL_FIELDS:
                self._control_fields.append(field)
        # Else a trailer: RFC 9110 6.5.1 lets us discard it, and ASGI cannot carry it.

    def on_headers_complete(self) -> None:
        if self._in_head:
            self._request = request = self._complete_head()
            self._in_head = False
            self.events.append(request)
        self._resuming = False
        self._overhead = 0

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        self._body_size += len(body)
        if self._body_size > self._config.body_bytes:
            raise body_too_large(self._config)
        self.events.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_upgrade():  # else _resume_after_upgrade() decides
            self._between_requests = self._request is not None and self._request.keep_alive
            self._request = None
            self.events.append(END)

    # The rules. The usual request (a path as target, Host the only control field) passes none but
    # `is_host`, which is cached: bench case `raw-page`.

    def _complete_head(self) -> Request:
        parser, headers, target, config = self._parser, self._headers, self._target, self._config
        method = str(parser.get_method(), "ascii")
        version = parser.get_http_version()
        if len(headers) > config.header_fields or self._overhead > config.head_bytes:
            check_size(target, headers, config)
        if version != "1.1" or method == "CONNECT":
            check_version(version, method)
        if target[:1] != b"/" or b"#" in target:
            target = origin_form(target, method, headers)
        path, _, query = target.partition(b"?")
        request = Request(method, path, query, version, headers, parser.should_keep_alive())
        control = self._control_fields
        if len(control) != 1 or control[0][0] != b"host":
            self._check_control_fields(request, control)
        elif not is_host(control[0][1]):
            raise bad_host()
        return request

    def _check_control_fields(self, request: Request, control: list[Header]) -> None:
        fields: dict[bytes, list[bytes]] = {}
        for name, value in control:
            fields.setdefault(name, []).append(value)
        check_host(request.http_version, fields.get(b"host", []))
        check_framing(request.http_version, fields, self._config)
        if b"expect" in fields:
            request.expects_continue = expects_continue(request.http_version, fields[b"expect"])
        if b"upgrade" in fields and self._parser.should_upgrade():
            request.websocket = is_websocket_upgrade(
                request.method, request.http_version, fields[b"upgrade"]
            )


class HTTP11(RequestParser):
    """HTTP/1.1 on one connection: an `HTTPProtocol`."""

    __slots__ = ()

    def respond_to(self, request: Request) -> Response:
        """Return an encoder for the response to `request`."""
        return Response(
            request.method, request.http_version, request.keep_alive, self._config.server_header
        )

    def refuse(self, refusal: Refusal) -> bytes:
        """Return a whole response, in plain text, after which the connection is to be closed."""
        return refusal_response(refusal, self._config.server_header)
