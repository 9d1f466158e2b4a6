"""The interface between a session and a wire format."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

REPLY, ERROR, LETTER = "reply", "error", "letter"
"""What comes over a wire: the answer to a call, in order; or a letter, whenever there is one."""


Command: TypeAlias = tuple[Any, ...]


Incoming: TypeAlias = tuple[str, Any]
"""One of them with its value; a letter's is (number, milliseconds, letter)."""


class Carrier(Protocol):
    """What a wire needs to say; see `carriers/`."""

    def handshake(self) -> list[Command]:
        """What to send first."""

    def answers(self, commands: list[Command]) -> int:
        """How many answers the handshake has."""

    def call(self, script: str, number: int, *arguments: Any) -> Command:
        """One call."""

    def encode(self, commands: list[Command]) -> bytes:
        """Commands as bytes."""

    def decoder(self) -> Any:
        """An object whose `feed(bytes)` yields what has come."""
