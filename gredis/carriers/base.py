"""The interface between a session and a wire format.

A carrier turns calls into bytes, and received bytes into replies, errors and messages. It does no
I/O and keeps no state but that of its decoder. To add one, implement `Carrier`, choose it by the
scheme of the URL in `client.py`, and run the contract tests on it.

Read next: `carriers/redis.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

REPLY, ERROR, MESSAGE = "reply", "error", "message"
"""Kinds of `Incoming`: the reply or error that answers a call, in the order of the calls; or a
message, which may arrive at any time."""

Command: TypeAlias = tuple[Any, ...]
"""One call before it is encoded."""

Incoming: TypeAlias = tuple[str, Any]
"""A kind with its value; the value of a message is (number, milliseconds, encoded message)."""


class Decoder(Protocol):
    """Decodes the bytes of one connection."""

    def feed(self, received: bytes) -> Iterator[Incoming]:
        """Yield everything that these bytes complete."""


class Carrier(Protocol):
    """A wire format."""

    def handshake(self) -> list[Command]:
        """Return the commands to send first on each connection."""

    def count_replies(self, commands: list[Command]) -> int:
        """Return the number of replies to these commands of the handshake."""

    def call(self, script: str, number: int, *arguments: Any) -> Command:
        """Return the command that calls a script as this process's call of that number."""

    def encode(self, commands: list[Command]) -> bytes:
        """Return commands as bytes."""

    def decoder(self) -> Decoder:
        """Return a decoder for the bytes of one new connection."""
