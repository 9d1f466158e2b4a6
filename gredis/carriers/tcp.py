"""The TCP carrier: the crossbar's verbs as frames, for our own hub (`python -m gredis`). No I/O.

    frame        length (4 bytes, big-endian, of what follows)   MessagePack array
    to the hub   [prefix, inbox, number, script, argument, …]
    from it      ["reply", value]   ["error", text]   ["message", number, milliseconds, message]

Calls and replies are those of the Redis carrier's scripts; the hub (`hub/state.py`) does in Python
what they do in Lua. Bytes stay bytes, text stays text. There is no encryption and no password: use
it on one machine or in a private network.

Taught in notebooks/12_redis_or_sockets.ipynb. Read next: `session.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from gredis.carriers.base import ERROR, MESSAGE, REPLY, Command, Incoming
from gredis.errors import GredisError
from gredis.messages import MAX_MESSAGE_BYTES

VERSION = 2
"""Protocol version; the hub refuses clients of another one. 2 renamed scripts and "letter"."""

LENGTH = struct.Struct(">I")

MAX_FRAME_BYTES = 4 * MAX_MESSAGE_BYTES
"""Largest frame accepted: a batch of fetched messages may be long, but not that long."""


def frame(content: Any) -> bytes:
    """Return `content` as one frame."""
    packed: bytes = msgpack.packb(content)
    return LENGTH.pack(len(packed)) + packed


class Frames:
    """Splits the bytes of one connection into the contents of frames."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, received: bytes) -> Iterator[Any]:
        """Yield the content of each frame these bytes complete. Raises `GredisError` for others."""
        self._received += received
        start, end = 0, len(self._received)
        while end - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._received, start)
            if length > MAX_FRAME_BYTES:
                raise GredisError(f"frame of {length} bytes exceeds the limit of {MAX_FRAME_BYTES}")
            if end - start < LENGTH.size + length:
                break
            start += LENGTH.size
            yield _unpack(bytes(self._received[start : start + length]))
            start += length
        del self._received[:start]


def _unpack(packed: bytes) -> Any:
    try:
        return msgpack.unpackb(packed, strict_map_key=False)
    except ValueError as error:
        raise GredisError(f"frame is not MessagePack: {packed[:40]!r}") from error


@dataclass(frozen=True, slots=True)
class TcpCarrier:
    """Encodes the calls of one process as frames."""

    inbox: str
    prefix: str = "gredis"

    def handshake(self) -> list[Command]:
        """Return the first call; from then on this connection proves that the process is alive."""
        return [self.call("hello", 0, VERSION)]

    def count_replies(self, commands: list[Command]) -> int:
        """Return the number of replies: one for each call."""
        return len(commands)

    def call(self, script: str, number: int, *arguments: Any) -> Command:
        """Return one call (number 0: uncounted)."""
        return (self.prefix, self.inbox, number, script, *arguments)

    def encode(self, commands: list[Command]) -> bytes:
        """Return calls as frames."""
        return b"".join(map(frame, commands))

    def decoder(self) -> Decoder:
        """Return a decoder for one new connection."""
        return Decoder()


class Decoder:
    """Decodes the bytes sent by the hub."""

    def __init__(self) -> None:
        self._frames = Frames()

    def feed(self, received: bytes) -> Iterator[Incoming]:
        """Yield everything that these bytes complete."""
        for kind, *values in self._frames.feed(received):
            if kind == MESSAGE:
                yield MESSAGE, tuple(values)
            else:
                yield (ERROR if kind == ERROR else REPLY), values[0]
