"""WebSocket frames: where one ends, and how an unfragmented, uncompressed message is sent. No I/O.

Most frames are complete messages without compression. `protocol/websocket.py` reads and writes
those with the functions here, which takes a third of the time that the `websockets` library needs
(bench case `raw-echo`). Every other frame (control frames, fragments, compressed or invalid ones)
goes to the library, one frame at a time, so that nothing is read beyond a frame that ends the
connection.

Source: RFC 6455 5.2, "Base Framing Protocol". Taught in notebooks/04_websocket.ipynb.
Read next: `protocol/websocket.py`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

FIN_TEXT: Final = 0x81
FIN_BINARY: Final = 0x82
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_TWO_BYTES, _EIGHT_BYTES = 126, 127  # the length follows, in as many bytes
_MASK_BYTES = 4

_SHORT, _LONG = Struct("!H"), Struct("!Q")
_SHORT_HEAD, _LONG_HEAD = Struct("!BBH"), Struct("!BBQ")


def parse_head(data: bytes, start: int) -> tuple[int, int] | None:
    """Return the sizes, in bytes, of head and payload of the frame that begins at `start`.

    None if the head is incomplete. Validates nothing.
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


def encode_frame(first: int, payload: bytes) -> bytes:
    """Return a whole frame of the server, unmasked: RFC 6455 5.1, it "MUST NOT mask"."""
    size = len(payload)
    if size < _TWO_BYTES:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return _SHORT_HEAD.pack(first, _TWO_BYTES, size) + payload
    return _LONG_HEAD.pack(first, _EIGHT_BYTES, size) + payload
