"""The interface between a session and a wire format."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

REPLY, ERROR, MESSAGE = "reply", "error", "message"
"""What comes over a wire: the answer to a call, in order; or a message, whenever there is one."""


Command: TypeAlias = tuple[Any, ...]


Incoming: TypeAlias = tuple[str, Any]
"""One of them with its value; a message's is (number, milliseconds, message)."""


class Carrier(Protocol):
    """What a wire needs to say; see `carriers/`."""

    def handshake(self) -> list[Command]:
        """What to send first."""

    def count_replies(self, commands: list[Command]) -> int:
        """How many answers the handshake has."""

    def call(self, script: str, number: int, *arguments: Any) -> Command:
        """One call."""

    def encode(self, commands: list[Command]) -> bytes:
        """Commands as bytes."""

    def decoder(self) -> Any:
        """An object whose `feed(bytes)` yields what has come."""
