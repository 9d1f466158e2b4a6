"""Names: the destinations that a message can have.

    address   `inbox!local`   one receiver (local) in one process (inbox)         unicast
    queue     `http`          one of the processes that consume from it           anycast
    group     `room-7`        every process with members, one message for each    multicast

An inbox gets a random name when its process starts, and names are never reused: a message for a
dead process cannot reach its successor.

This file only makes and splits names. Messages sent to them are in `messages.py`.
Taught in notebooks/07_crossbar.ipynb. Read next: `messages.py`.
"""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass

from gredis.errors import BadName

INBOX_BYTES = 9
"""Random bytes in the name of an inbox: 72 bits, so that two processes never share one."""

SEPARATOR = "!"
"""Between inbox and local, as in Channels' process-local channel names."""


@dataclass(frozen=True, slots=True)
class Address:
    """One receiver in one process."""

    inbox: str
    local: str

    def __str__(self) -> str:
        return f"{self.inbox}{SEPARATOR}{self.local}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address in `text`, "inbox!local" or Channels' "prefix.inbox!local".

        Raises `BadName` if `text` has no "!" or if one of its parts is empty.
        """
        head, separator, local = text.partition(SEPARATOR)
        inbox = head.rpartition(".")[2]
        if not (separator and inbox and local):
            raise BadName(f"got {text!r}, expected an address: inbox!local")
        return cls(inbox, local)


def new_inbox() -> str:
    """Return a name that no other process has (12 letters, digits, "-" and "_")."""
    return secrets.token_urlsafe(INBOX_BYTES)


_numbers = itertools.count(1)


def new_local() -> str:
    """Return a name that no other receiver in this process has."""
    return format(next(_numbers), "x")
