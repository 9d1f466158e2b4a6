"""Messages: what travels, and how it looks on the wire.

A *body* is what the caller sends: whatever MessagePack can say, in practice an ASGI event or a
Channels message. A *message* is a body with what is needed to route it once it has reached the
right process:

    kind (1 byte)   name (UTF-8)   0   body (MessagePack)

The body of a message is packed once by the sender, whatever the number of receivers, and carried
through unopened: carriers and the routing never look inside.

Taught in notebooks/00_tour.ipynb. Read next: `router.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgpack

from gredis.errors import GredisError, MessageTooLarge

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Bytes of one message. Redis takes 512 MB; above some MB one message delays all others."""


class Kind(Enum):
    """How a message found its process, and so what its name means there."""

    UNICAST = b"u"  # name: the local
    ANYCAST = b"a"  # name: the queue
    MULTICAST = b"m"  # name: the group
    CONFIRMED = b"p"  # name: the sender's address, a space, the group; say when all have room
    GONE = b"g"  # name: an inbox whose process has died; the body is empty
    FLUSH = b"f"  # forget all groups; no name, no body


@dataclass(frozen=True, slots=True)
class Message:
    """A packed body and where it goes inside the process."""

    kind: Kind
    name: str
    body: bytes

    def encode(self) -> bytes:
        """The message as bytes; `MessageTooLarge` above `MAX_MESSAGE_BYTES`."""
        wire = self.kind.value + self.name.encode() + b"\0" + self.body
        if len(wire) > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"a message of {len(wire)} bytes, at most {MAX_MESSAGE_BYTES} are carried: "
                "send it in parts, or store it and send where it is"
            )
        return wire

    @classmethod
    def decode(cls, wire: bytes) -> Message:
        """The message in `wire`; raises `GredisError` when that is none."""
        name, separator, body = wire[1:].partition(b"\0")
        if not separator:
            raise GredisError(f"expected a message, got {wire[:40]!r}")
        try:
            return cls(Kind(wire[:1]), name.decode(), body)
        except ValueError as error:
            raise GredisError(f"a message of no known kind: {wire[:40]!r}") from error


def pack(body: Any) -> bytes:
    """`body` as MessagePack; raises `TypeError` for what MessagePack cannot say."""
    packed: bytes = msgpack.packb(body)
    return packed


def unpack(body: bytes) -> Any:
    """What `pack` was given (tuples come back as lists)."""
    return msgpack.unpackb(body, strict_map_key=False)
