"""Messages: the unit that the crossbar carries, and its encoding.

A *body* is the caller's payload: any value that MessagePack can encode, in practice an ASGI event
or a Channels message. A *message* is a packed body with what is needed to route it inside the
process that it was sent to:

    kind (1 byte)   name (UTF-8)   0   body (MessagePack)

The sender packs a body once, whatever the number of receivers. Carriers and the router never unpack
it.

Taught in notebooks/00_tour.ipynb. Read next: `router.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgpack

from gredis.errors import GredisError, MessageTooLarge

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message. Redis takes 512 MB, but above some MB one message delays all others."""


class Kind(Enum):
    """The way a message was sent, which decides what its name refers to in the receiver.

    The values are part of the wire format and of messages stored in Redis. They must not change, so
    that processes of two releases can share a Redis during a rolling restart.
    """

    UNICAST = b"u"  # name: the local
    ANYCAST = b"a"  # name: the queue
    MULTICAST = b"m"  # name: the group
    CONFIRMED = b"p"  # a multicast to be confirmed; name: the sender's address, a space, the group
    GONE = b"g"  # name: the inbox of a process that has died; the body is empty
    FLUSH = b"f"  # forget all groups; no name, no body


@dataclass(frozen=True, slots=True)
class Message:
    """A packed body, and its destination inside the process."""

    kind: Kind
    name: str
    body: bytes

    def encode(self) -> bytes:
        """Return the message as bytes. Raises `MessageTooLarge` above `MAX_MESSAGE_BYTES`."""
        wire = self.kind.value + self.name.encode() + b"\0" + self.body
        if len(wire) > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"message of {len(wire)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}: "
                "send it in parts, or store it elsewhere and send its location"
            )
        return wire

    @classmethod
    def decode(cls, wire: bytes) -> Message:
        """Return the message encoded in `wire`. Raises `GredisError` if it is not a message."""
        name, separator, body = wire[1:].partition(b"\0")
        if not separator:
            raise GredisError(f"expected a message, got {wire[:40]!r}")
        try:
            return cls(Kind(wire[:1]), name.decode(), body)
        except ValueError as error:
            raise GredisError(f"message of unknown kind: {wire[:40]!r}") from error


def pack(body: Any) -> bytes:
    """Return `body` as MessagePack. Raises `TypeError` if it cannot be encoded."""
    packed: bytes = msgpack.packb(body)
    return packed


def unpack(body: bytes) -> Any:
    """Return the value that was packed (tuples come back as lists)."""
    return msgpack.unpackb(body, strict_map_key=False)
