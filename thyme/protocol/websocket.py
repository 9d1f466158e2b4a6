"""WebSocket: bytes and ASGI's websocket.* events, both ways. No I/O.

Control frames, fragments, the closing handshake and permessage-deflate are the `websockets`
library's (its sans-I/O `ServerProtocol`); the plain frames that most messages are,
`protocol/frames.py`'s. Decided here: what makes a handshake good, how ASGI's events map to frames,
that texts are UTF-8, and which code an ending has.

    receive_data(bytes), receive_eof()      then take from `events`, and send `data_to_send()`
    receive_data(b"")                       the same, when all is taken and `holds` says so
                                            (these return how many frames were read)
    accept(), send(), close()               then send `data_to_send()`

Sources: RFC 6455, RFC 7692; https://asgi.readthedocs.io/en/latest/specs/www.html, "WebSocket".
Taught in notebooks/04_websocket.ipynb. Read next: `server/websocket_cycle.py`, which brings the
bytes.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response as HandshakeResponse
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiler where it was installed
    from websockets.utils import apply_mask

from thyme.config import WORK_PER_TURN, Config
from thyme.errors import ApplicationError
from thyme.protocol.close_codes import CloseCode
from thyme.protocol.frames import FIN_BINARY, FIN_TEXT, framed, head_at
from thyme.protocol.head_rules import Refusal
from thyme.protocol.http11 import Request
from thyme.protocol.response import checked

Event = dict[str, Any]

VERSION = b"13"  # RFC 6455 4.1

_LOGGER = logging.getLogger("thyme.websocket.protocol")

# The fields that decide about the handshake (RFC 6455 4.2.1); the others are the application's.
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

# Each message is compressed by itself: nothing is kept between messages, so an idle connection
# costs nothing (a kept window costs some 64 KiB), and no secret is in the window of the next.
_DEFLATE: Final = [
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=12,
        compress_settings={"memLevel": 5},
    )
]


class WebSocket:
    """One conversation, without its socket.

    `refusal`: the handshake is no good; answer with it and do nothing else. `events`: what the
    application is to receive. `ended`: websocket.disconnect is among them, or was. `opening`: the
    application has neither accepted nor refused yet. `open`: messages can be sent. `closing`: a
    close frame was sent, and the peer has nothing to send but its answer.
    """

    __slots__ = (
        "_accepted",
        "_fragments",
        "_max_size",
        "_owed",
        "_protocol",
        "_response",
        "_rest",
        "_text",
        "closing",
        "ended",
        "events",
        "holds",
        "messages_received",
        "messages_sent",
        "open",
        "opening",
        "refusal",
        "writes",
    )

    def __init__(self, request: Request, config: Config) -> None:
        self.events: deque[Event] = deque()
        self.ended = self.holds = False
        self.messages_received = self.messages_sent = 0
        self._fragments: list[bytes] | None = None
        self._max_size = config.message_bytes
        self._owed = 0  # bytes that the library needs to the end of the frame that it reads
        self._rest = b""  # of a frame's head, or frames that wait for their turn
        self._text = False
        self._accepted = False
        self._protocol = _Protocol(
            extensions=_DEFLATE if config.compression else None,
            max_size=config.message_bytes,
            logger=_LOGGER,
        )
        self.writes: list[bytes] = self._protocol.writes
        """What is to be written: see `data_to_send()`."""
        self._response: HandshakeResponse | None = None
        self.refusal = self._read_handshake(request)
        self._look()

    def _look(self) -> None:
        """Note the state, after what may have changed it."""
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
            return Refusal(426, "the version of WebSocket spoken here is 13")
        lines = [
            b"%b: %b\r\n" % field for field in request.headers if field[0] in _HANDSHAKE_FIELDS
        ]
        protocol = self._protocol
        protocol.receive_data(b"GET / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n")
        received = protocol.events_received()
        if not received:
            return Refusal(400, "the handshake is not RFC 6455's")
        self._response = protocol.accept(received[0])  # type: ignore[arg-type]
        received[0].headers.clear()  # type: ignore[union-attr]  # the library would keep them
        if protocol.handshake_exc is not None:
            return Refusal(self._response.status_code, str(protocol.handshake_exc))
        return None

    @property
    def peer_sends(self) -> bool:
        """Whether the peer may still send: after its close frame it does not (RFC 6455 5.5.1)."""
        return self._accepted and self._protocol.close_rcvd is None

    def accept(self, event: Event) -> None:
        """Take `websocket.accept`: the subprotocol the application chose, and its headers."""
        response = self._response
        if not self.opening or response is None:
            raise ApplicationError("got 'websocket.accept', but the handshake is over")
        headers = checked(event.get("headers", ()))
        for name, value in headers:
            # ASGI: "Sec-WebSocket-Protocol must be sent as subprotocol"; the rest is ours.
            if name.startswith(b"sec-websocket-") or name in (b"upgrade", b"connection"):
                raise ApplicationError(f"{name!r} is the server's, not the application's")
            response.headers[name.decode("ascii")] = value.decode("latin-1")
        subprotocol = event.get("subprotocol")
        if subprotocol is not None:
            (chosen,) = checked([(b"sec-websocket-protocol", subprotocol.encode("ascii"))])
            response.headers["Sec-WebSocket-Protocol"] = chosen[1].decode("ascii")
            self._protocol.subprotocol = Subprotocol(subprotocol)
        self._accepted = True
        self._protocol.send_response(response)
        self._look()
        self._response = None  # it may live long, and is done with

    def refused(self) -> None:
        """The handshake was answered with plain HTTP: there will be no WebSocket."""
        self._end(CloseCode.ABNORMAL, "")

    # From the peer.

    def receive_data(self, data: bytes) -> int:
        """Take bytes, and read the frames of a turn at most; then `holds`: there may be more."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        self.holds = False
        start, end, frames = 0, len(data), 0
        while start < end and not self.ended:
            if self._owed:
                piece = data[start : start + self._owed]
                self._owed -= len(piece)
                start += len(piece)
                self._pass_on(piece)
                continue
            if frames == WORK_PER_TURN:
                self._rest, self.holds = data[start:], True
                break
            head = head_at(data, start)
            if head is None:
                self._rest = data[start:]
                break
            payload = start + head[0]
            after = payload + head[1]
            if after <= end and head[1] <= self._max_size and self._is_plain(data, start):
                unmasked = apply_mask(data[payload:after], data[payload - 4 : payload])
                self._receive_message(data[start] == FIN_TEXT, unmasked)
                start = after
            elif self.events and self.open:
                # The frame may end the conversation: what came before it is answered first.
                self._rest, self.holds = data[start:], True
                break
            else:
                self._owed = after - start
            frames += 1
        return frames

    def _is_plain(self, data: bytes, start: int) -> bool:
        """Whether the frame at `start` is a message: in one piece, uncompressed, at its place."""
        return (
            data[start] in (FIN_TEXT, FIN_BINARY)
            and data[start + 1] >= 0x80  # RFC 6455 5.1: the library fails what is not masked
            and self._fragments is None
            and self.open
        )

    def _pass_on(self, data: bytes) -> None:
        """Let the library read bytes of one frame."""
        protocol = self._protocol
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if not self.ended:
                self._receive_frame(frame)  # type: ignore[arg-type]
        if protocol.parser_exc is not None:
            self._end(_sent_code(protocol), str(protocol.parser_exc))
        self._look()

    def receive_eof(self) -> int:
        """The peer sends no more; without a close frame before, this is an abnormal end."""
        self._protocol.receive_eof()
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
            self._end(CloseCode.INVALID_DATA, "a text is not UTF-8")
        else:
            self.events.append({"type": "websocket.receive", "bytes": None, "text": decoded})

    def _end(self, code: int, reason: str) -> None:
        if not self.ended:
            self.ended = True
            self.events.append(
                {"type": "websocket.disconnect", "code": int(code), "reason": reason}
            )
        self._look()

    # From the application.

    def send(self, event: Event) -> None:
        """Take `websocket.send`: a text or bytes."""
        text, data = event.get("text"), event.get("bytes")
        protocol = self._protocol
        plain = self.open and not protocol.extensions
        if isinstance(text, str):
            if plain:
                self.writes.append(framed(FIN_TEXT, text.encode()))
            else:
                protocol.send_text(text.encode())
        elif isinstance(data, (bytes, bytearray, memoryview)):
            if plain:
                self.writes.append(framed(FIN_BINARY, bytes(data)))
            else:
                protocol.send_binary(data)
        else:
            raise ApplicationError("websocket.send: expected 'text' as str or 'bytes' as bytes")
        self.messages_sent += 1

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; no matter if it has begun."""
        if self._protocol.state is State.OPEN:
            try:
                self._protocol.send_close(code, reason)
            except ProtocolError as error:
                raise ApplicationError(f"websocket.close: code {code}: {error}") from error
            self._look()

    def ping(self) -> None:
        """Ask the peer for a sign of life (RFC 6455 5.5.2)."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")

    def fail(self, code: int, reason: str) -> None:
        """Give the peer up: close with `code`, and tell the application the same."""
        if self._protocol.state is State.OPEN:
            self._protocol.fail(code, reason)
        self._end(code, reason)

    def data_to_send(self) -> bytes:
        """What is to be written now, as one piece."""
        writes = self.writes
        if len(writes) == 1:
            return writes.pop()
        data = b"".join(writes)
        writes.clear()
        return data


class _Protocol(ServerProtocol):
    """The library's, but a close frame may come between the fragments of a message.

    RFC 6455 5.4: "Control frames MAY be injected in the middle of a fragmented message."
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


def _sent_code(protocol: ServerProtocol) -> int:
    return CloseCode.ABNORMAL if protocol.close_sent is None else protocol.close_sent.code
