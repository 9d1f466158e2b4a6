"""Names: who a message can be for.

    address   `inbox!local`   one receiver (local) in one process (inbox)     unicast
    queue     `http`          whoever takes from it, one process a message    anycast
    group     `room-7`        every process with members, each once           multicast

An inbox is named at random when its process starts, so a name is never used twice: what was meant
for a dead process cannot reach its successor.

This file only makes and splits names. What travels under them is in `messages.py`.
Taught in notebooks/07_crossbar.ipynb. Read next: `messages.py`.
"""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass

from gredis.errors import BadName

INBOX_BYTES = 9
"""Random bytes of an inbox's name: 72 bits, so that no two processes ever share one."""

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
        """The address in `text`, "inbox!local" or Channels' "prefix.inbox!local".

        Raises `BadName` when there is no "!" in it or one of its parts is empty.
        """
        head, separator, local = text.partition(SEPARATOR)
        inbox = head.rpartition(".")[2]
        if not (separator and inbox and local):
            raise BadName(f"got {text!r}, expected an address: inbox!local")
        return cls(inbox, local)


def new_inbox() -> str:
    """A name that no other process has (12 letters, digits, "-" and "_")."""
    return secrets.token_urlsafe(INBOX_BYTES)


_numbers = itertools.count(1)


def new_local() -> str:
    """A name that no other receiver of this process has."""
    return format(next(_numbers), "x")
