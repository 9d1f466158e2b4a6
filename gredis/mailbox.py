"""Mailboxes: receivers that are read one body at a time, by one greenlet or task.

A mailbox can watch another process: reading fails with `Gone` once that process has died, after all
bodies that came before. Drivers add the queue that waits, and `get()`. No I/O.

Read next: `drivers/gevent.py` beside `drivers/asyncio.py`.
"""

from __future__ import annotations

from typing import Any, Protocol

from gredis.client import Client
from gredis.errors import Gone
from gredis.messages import unpack


class Bodies(Protocol):
    """The driver's queue of packed bodies; None stands for the death of the watched process."""

    def put_nowait(self, body: bytes | None) -> None:
        """Append a body."""


class Mailbox:
    """A receiver in this process, at `address`; see the drivers' `get()` for reading it."""

    def __init__(self, client: Client, bodies: Bodies) -> None:
        self._client = client
        self._bodies: Any = bodies
        self._watched: str | None = None
        self.address = client.router.add(bodies.put_nowait)

    def _unpack(self, body: bytes | None) -> Any:
        if body is None:
            raise Gone(f"process {self._watched} has died")
        return unpack(body)

    def interrupt(self) -> None:
        """Make `get()` raise `Gone` after all bodies so far, as if the process had died."""
        self._bodies.put_nowait(None)

    def watch(self, inbox: str) -> None:
        """Make `get()` raise `Gone` when that process dies. Replaces an earlier watch."""
        self._unwatch()
        self._watched = inbox
        self._client.router.watch(inbox, self._on_process_gone)

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._client.router.unwatch(self._watched, self._on_process_gone)

    def _on_process_gone(self, inbox: str) -> None:
        self.interrupt()

    def close(self) -> None:
        """Stop receiving."""
        self._unwatch()
        self._client.remove(self.address.local)
