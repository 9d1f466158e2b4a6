"""Where a WebSocket frame ends, and the frames that most messages are: one, whole, uncompressed.

`protocol/websocket.py` gives every other frame to the `websockets` library, each by itself: so
nothing is read beyond a frame that ends the conversation. Reading the usual ones here takes a third
of the time. No I/O.

Taught in notebooks/04_websocket.ipynb. Source: RFC 6455 5.2, "Base Framing Protocol".
"""

from __future__ import annotations

from struct import Struct
from typing import Final

FIN_TEXT: Final = 0x81
FIN_BINARY: Final = 0x82
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_TWO_BYTES, _EIGHT_BYTES = 126, 127  # lengths that say where the length really is
_MASK_BYTES = 4

_SHORT, _LONG = Struct("!H"), Struct("!Q")
_SHORT_HEAD, _LONG_HEAD = Struct("!BBH"), Struct("!BBQ")


def head_at(data: bytes, start: int) -> tuple[int, int] | None:
    """Bytes in the head and in the payload of the frame that begins at `start`.

    None when too little has come to tell. Nothing is checked.
    """
    available = len(data) - start
    if available < 2:
        return None
    second = data[start + 1]
    mask = _MASK_BYTES if second & _MASKED else 0
    length = second & _LENGTH
    if length < _TWO_BYTES:
        head = 2 + mask
        return (head, length) if available >= head else None
    packed = _SHORT if length == _TWO_BYTES else _LONG
    head = 2 + packed.size + mask
    if available < head:
        return None
    return head, packed.unpack_from(data, start + 2)[0]


def framed(first: int, payload: bytes) -> bytes:
    """A whole frame from the server: RFC 6455 5.1, it "MUST NOT mask"."""
    size = len(payload)
    if size < _TWO_BYTES:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return _SHORT_HEAD.pack(first, _TWO_BYTES, size) + payload
    return _LONG_HEAD.pack(first, _EIGHT_BYTES, size) + payload
