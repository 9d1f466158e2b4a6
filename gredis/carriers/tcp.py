"""The TCP carrier: the crossbar's verbs as frames, for our own hub (`python -m gredis`). No I/O.

    frame       length (4 bytes, big-endian, of what follows)   MessagePack array
    to the hub  [prefix, inbox, number, script, argument, …]
    from it     ["reply", value]   ["error", text]   ["message", number, milliseconds, message]

The calls and their replies are those of the scripts of the Redis carrier; the hub (`hub/state.py`)
does in Python what they do in Lua. Bytes stay bytes, text stays text. There is no encryption and no
password: it is meant for one machine, or a network of one's own.

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
"""Of the frames."""

LENGTH = struct.Struct(">I")

MAX_FRAME = 4 * MAX_MESSAGE_BYTES
"""Bytes of a frame that is taken: a batch of fetched messages may be long, above it is noise."""


def frame(content: Any) -> bytes:
    """One frame."""
    packed: bytes = msgpack.packb(content)
    return LENGTH.pack(len(packed)) + packed


class Frames:
    """The bytes of one connection, cut into the contents of frames."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, received: bytes) -> Iterator[Any]:
        """What is complete with these bytes; raises `GredisError` for what is no frame."""
        self._received += received
        start, end = 0, len(self._received)
        while end - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._received, start)
            if length > MAX_FRAME:
                raise GredisError(f"got a frame of {length} bytes, at most {MAX_FRAME} are taken")
            if end - start < LENGTH.size + length:
                break
            start += LENGTH.size
            yield _content(bytes(self._received[start : start + length]))
            start += length
        del self._received[:start]


def _content(packed: bytes) -> Any:
    try:
        return msgpack.unpackb(packed, strict_map_key=False)
    except ValueError as error:
        raise GredisError(f"got a frame that is no MessagePack: {packed[:40]!r}") from error


@dataclass(frozen=True, slots=True)
class TcpCarrier:
    """Says in frames what one process wants."""

    inbox: str
    prefix: str = "gredis"

    def handshake(self) -> list[Command]:
        """What to send first: from now on this connection says that the process lives."""
        return [self.call("hello", 0, VERSION)]

    def count_replies(self, commands: list[Command]) -> int:
        """How many answers the handshake has."""
        return len(commands)

    def call(self, script: str, number: int, *arguments: Any) -> Command:
        """One call."""
        return (self.prefix, self.inbox, number, script, *arguments)

    def encode(self, commands: list[Command]) -> bytes:
        """Calls as they go over the wire."""
        return b"".join(map(frame, commands))

    def decoder(self) -> Decoder:
        """What makes sense of the bytes of one connection."""
        return Decoder()


class Decoder:
    """The bytes from the hub, taken apart."""

    def __init__(self) -> None:
        self._frames = Frames()

    def feed(self, received: bytes) -> Iterator[Incoming]:
        """What is complete with these bytes."""
        for kind, *values in self._frames.feed(received):
            if kind == MESSAGE:
                yield MESSAGE, tuple(values)
            else:
                yield (ERROR if kind == ERROR else REPLY), values[0]
