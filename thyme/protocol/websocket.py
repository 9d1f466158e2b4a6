"""WebSocket: bytes and ASGI's websocket.* events, both ways. No I/O.

    receive_data(bytes), receive_eof()      then take from `events`, and write `data_to_send()`
    receive_data(b"")                       the same, when `events` is empty and `has_more`
                                            (these three return the number of frames that were read)
    accept(), send(), close()               then write `data_to_send()`

Two implementations share the work. Plain frames, which most messages are, are read and written by
`protocol/frames.py`. Everything else (control frames, fragments, the closing handshake,
permessage-deflate, violations) goes to the `websockets` library, its sans-I/O `ServerProtocol`. The
library is given one frame at a time and no byte beyond its end, so both always agree on where the
next frame begins.

Decided here: which handshakes are valid, how ASGI's events map to frames, that texts are UTF-8, and
which close code an ending has. When to read and what an application may send is left to
`server/websocket_cycle.py`.

Sources: RFC 6455, RFC 7692; https://asgi.readthedocs.io/en/latest/specs/www.html, "WebSocket".
Taught in notebooks/04_websocket.ipynb. Read next: `server/websocket_cycle.py`.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response as HandshakeResponse
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # installed without its C extension
    from websockets.utils import apply_mask

from thyme.asgi import Event
from thyme.config import WORK_PER_TURN, Config
from thyme.errors import ApplicationError
from thyme.protocol.close_codes import CloseCode
from thyme.protocol.frames import FIN_BINARY, FIN_TEXT, encode_frame, parse_head
from thyme.protocol.http import Refusal, Request
from thyme.protocol.response import validated_headers

VERSION = b"13"  # RFC 6455 4.1

_LOGGER = logging.getLogger("thyme.websocket.protocol")

# The fields of the handshake itself (RFC 6455 4.2.1); all others are the application's.
_HANDSHAKE_FIELDS: Final = frozenset(
    {
        b"host",
        b"upgrade",
        b"connection",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-extensions",
    }
)

# Each message is compressed separately ("no context takeover"): an idle connection keeps no window
# (which would cost some 64 KiB), and no message can reveal what was in the one before.
_DEFLATE: Final = [
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=12,
        compress_settings={"memLevel": 5},
    )
]


class WebSocket:
    """One WebSocket, without its socket.

    `refusal`: the handshake is invalid; send this and do nothing else. `events`: what the
    application is to receive. The state, in the order in which it changes:

    `opening`: the application has neither accepted nor refused yet. `open`: messages can be sent.
    `closing`: a close frame was sent, and the peer has nothing to send but its own. `ended`:
    websocket.disconnect is, or was, among `events`.
    """

    __slots__ = (
        "_accepted",
        "_fragments",
        "_library_bytes",
        "_max_size",
        "_protocol",
        "_response",
        "_text",
        "_unread",
        "closing",
        "ended",
        "events",
        "has_more",
        "messages_received",
        "messages_sent",
        "open",
        "opening",
        "refusal",
        "writes",
    )

    def __init__(self, request: Request, config: Config) -> None:
        self.events: deque[Event] = deque()
        self.ended = self.has_more = False
        self.messages_received = self.messages_sent = 0
        self._fragments: list[bytes] | None = None
        self._max_size = config.message_bytes
        self._library_bytes = 0  # to the end of the frame that the library is reading
        self._unread = b""  # an incomplete head, or frames for the next receive_data(b"")
        self._text = False
        self._accepted = False
        self._protocol = _Protocol(
            extensions=_DEFLATE if config.compression else None,
            max_size=config.message_bytes,
            logger=_LOGGER,
        )
        # The library's own list of what is to be written. It is shared, so that plain frames and
        # those of the library go out in the order in which they were made.
        self.writes: list[bytes] = self._protocol.writes
        self._response: HandshakeResponse | None = None
        self.refusal = self._read_handshake(request)
        self._update_state()

    def _update_state(self) -> None:
        """Derive the state from the library's, after everything that may have changed it.

        Attributes instead of properties: `open` is read for every message (bench case `raw-echo`).
        """
        state = self._protocol.state
        self.opening = state is State.CONNECTING and not self.ended
        self.open = state is State.OPEN and not self.ended
        self.closing = state is State.CLOSING or state is State.CLOSED

    # The opening handshake.

    def _read_handshake(self, request: Request) -> Refusal | None:
        # RFC 6455 4.4: "If the server doesn't support the requested version, it MUST respond with
        # a Sec-WebSocket-Version header field containing all versions it is willing to use."
        versions = [value for name, value in request.headers if name == b"sec-websocket-version"]
        if len(versions) == 1 and versions[0] != VERSION:
            # RFC 9110 15.5.22: 426 "MUST send an Upgrade header field".
            fields = ((b"sec-websocket-version", VERSION), (b"upgrade", b"websocket"))
            return Refusal(426, "WebSocket version not supported; use 13", fields)
        lines = [
            b"%b: %b\r\n" % field for field in request.headers if field[0] in _HANDSHAKE_FIELDS
        ]
        protocol = self._protocol
        protocol.receive_data(b"GET / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n")
        received = protocol.events_received()
        if not received:
            return Refusal(400, "malformed WebSocket handshake")
        self._response = protocol.accept(received[0])  # type: ignore[arg-type]
        received[0].headers.clear()  # type: ignore[union-attr]  # else the library keeps them
        if protocol.handshake_exc is not None:
            return Refusal(self._response.status_code, str(protocol.handshake_exc))
        return None

    @property
    def peer_may_send(self) -> bool:
        """True from the acceptance to the peer's close frame, its last one (RFC 6455 5.5.1)."""
        return self._accepted and self._protocol.close_rcvd is None

    def accept(self, event: Event) -> None:
        """Accept the handshake, with the subprotocol and the headers of `websocket.accept`."""
        response = self._response
        if not self.opening or response is None:
            raise ApplicationError("got 'websocket.accept', but the opening handshake is over")
        headers = validated_headers(event.get("headers", ()))
        for name, value in headers:
            # ASGI passes the subprotocol separately; the other fields are the server's.
            if name.startswith(b"sec-websocket-") or name in (b"upgrade", b"connection"):
                raise ApplicationError(f"got header {name!r}, which only the server may set")
            response.headers[name.decode("ascii")] = value.decode("latin-1")
        subprotocol = event.get("subprotocol")
        if subprotocol is not None:
            (chosen,) = validated_headers(
                [(b"sec-websocket-protocol", subprotocol.encode("ascii"))]
            )
            response.headers["Sec-WebSocket-Protocol"] = chosen[1].decode("ascii")
            self._protocol.subprotocol = Subprotocol(subprotocol)
        self._accepted = True
        self._protocol.send_response(response)
        self._update_state()
        self._response = None  # frees its memory: a WebSocket may live long

    def refuse(self) -> None:
        """End without a WebSocket: the handshake is answered with plain HTTP."""
        self._end(CloseCode.ABNORMAL, "")

    # From the peer.

    def receive_data(self, data: bytes) -> int:
        """Take bytes; read at most `WORK_PER_TURN` frames. `has_more`: call again with b"".

        Returns the number of frames that were read.
        """
        if self._unread:
            data, self._unread = self._unread + data, b""
        self.has_more = False
        start, end, frames = 0, len(data), 0
        while start < end and not self.ended:
            if self._library_bytes:
                piece = data[start : start + self._library_bytes]
                self._library_bytes -= len(piece)
                start += len(piece)
                self._feed_library(piece)
                continue
            if frames == WORK_PER_TURN:
                self._unread, self.has_more = data[start:], True
                break
            head = parse_head(data, start)
            if head is None:
                self._unread = data[start:]
                break
            payload = start + head[0]
            after = payload + head[1]
            if after <= end and head[1] <= self._max_size and self._is_plain_message(data, start):
                unmasked = apply_mask(data[payload:after], data[payload - 4 : payload])
                self._receive_message(data[start] == FIN_TEXT, unmasked)
                start = after
            elif self.events and self.open:
                # It is not a plain frame, so it may end the WebSocket: deliver what came before it
                # first, while the application can still answer.
                self._unread, self.has_more = data[start:], True
                break
            else:
                self._library_bytes = after - start
            frames += 1
        return frames

    def _is_plain_message(self, data: bytes, start: int) -> bool:
        """Return True if the frame at `start` is a whole and plain message that may come now."""
        return (
            data[start] in (FIN_TEXT, FIN_BINARY)
            and data[start + 1] >= 0x80  # RFC 6455 5.1: masked; else the library fails it
            and self._fragments is None
            and self.open
        )

    def _feed_library(self, data: bytes) -> None:
        """Give the library bytes of one frame, and take what it makes of them."""
        protocol = self._protocol
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if not self.ended:
                self._receive_frame(frame)  # type: ignore[arg-type]
        if protocol.parser_exc is not None:
            self._end(_sent_code(protocol), str(protocol.parser_exc))
        self._update_state()

    def receive_eof(self) -> int:
        """Note that the peer sends no more; without a close frame, that is an abnormal end."""
        self._protocol.receive_eof()
        # RFC 6455 7.1.5: "_The WebSocket Connection Close Code_ is considered to be 1006".
        self._end(CloseCode.ABNORMAL, "")
        return 0

    def _receive_frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                self._receive_message(opcode is Opcode.TEXT, frame.data)
            else:
                self._text = opcode is Opcode.TEXT
                self._fragments = [bytes(frame.data)]
        elif opcode is Opcode.CONT and self._fragments is not None:
            # RFC 6455 5.4: "the message is the concatenation of the fragments' application data".
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                whole, self._fragments = b"".join(self._fragments), None
                self._receive_message(self._text, whole)
        elif opcode is Opcode.CLOSE:
            received = self._protocol.close_rcvd
            if received is not None:
                self._end(received.code, received.reason)

    def _receive_message(self, text: bool, data: bytes | bytearray | memoryview) -> None:
        self.messages_received += 1
        if not text:
            self.events.append({"type": "websocket.receive", "bytes": bytes(data), "text": None})
            return
        try:
            decoded = str(data, "utf-8")
        except UnicodeDecodeError as error:
            # RFC 6455 8.1: "that endpoint MUST _Fail the WebSocket Connection_"; 7.4.1: 1007.
            self._protocol.fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
            self._end(CloseCode.INVALID_DATA, "a text message is not UTF-8")
        else:
            self.events.append({"type": "websocket.receive", "bytes": None, "text": decoded})

    def _end(self, code: int, reason: str) -> None:
        if not self.ended:
            self.ended = True
            self.events.append(
                {"type": "websocket.disconnect", "code": int(code), "reason": reason}
            )
        self._update_state()

    # From the application.

    def send(self, event: Event) -> None:
        """Send the text or the bytes of `websocket.send`."""
        text, data = event.get("text"), event.get("bytes")
        protocol = self._protocol
        plain = self.open and not protocol.extensions
        if isinstance(text, str):
            if plain:
                self.writes.append(encode_frame(FIN_TEXT, text.encode()))
            else:
                protocol.send_text(text.encode())
        elif isinstance(data, (bytes, bytearray, memoryview)):
            if plain:
                self.writes.append(encode_frame(FIN_BINARY, bytes(data)))
            else:
                protocol.send_binary(data)
        else:
            raise ApplicationError(
                "got a 'websocket.send' without content, expected 'text' as str or 'bytes' as bytes"
            )
        self.messages_sent += 1

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake. Idempotent."""
        if self._protocol.state is State.OPEN:
            try:
                self._protocol.send_close(code, reason)
            except ProtocolError as error:
                raise ApplicationError(f"cannot close with code {code}: {error}") from error
            self._update_state()

    def ping(self) -> None:
        """Send a ping (RFC 6455 5.5.2). No-op unless open."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")

    def fail(self, code: int, reason: str) -> None:
        """Fail the WebSocket: close with `code`, and disconnect the application with the same."""
        if self._protocol.state is State.OPEN:
            self._protocol.fail(code, reason)
        self._end(code, reason)

    def data_to_send(self) -> bytes:
        """Return what is to be written now, and forget it."""
        writes = self.writes
        if len(writes) == 1:
            return writes.pop()
        data = b"".join(writes)
        writes.clear()
        return data


class _Protocol(ServerProtocol):
    """The library's protocol, which also accepts a close frame between fragments.

    RFC 6455 5.4: "Control frames MAY be injected in the middle of a fragmented message."
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


def _sent_code(protocol: ServerProtocol) -> int:
    return CloseCode.ABNORMAL if protocol.close_sent is None else protocol.close_sent.code
