"""Lifelines: idle connections that show at once that a process has died. No I/O.

A lifeline is one TCP connection between two processes that have exchanged messages. Each side sends
one line, and nothing after that:

    caller   "<inbox of the process that is called> <inbox of the caller>"
    called   "yes"

The kernel closes the connection when either process ends, in whatever way, and that ends the other
one's wait for data. An inbox in the greeting makes sure that the process called is the one meant:
ports are used again.

`drivers/gevent.py` and `drivers/asyncio.py` connect, and `endpoint.py` decides what an end means.

Taught in notebooks/13_when_things_die.ipynb.
Read next: `endpoint.py`.
"""

from __future__ import annotations

GREETING_SECONDS = 5.0
"""For connecting and both lines."""

GREETING_BYTES = 200
"""Bytes of a line: two inboxes."""

ACCEPTED = b"yes\n"
"""The answer of the process that is called."""


def greeting(called: str, caller: str) -> bytes:
    """Return the caller's line."""
    return f"{called} {caller}\n".encode()


def caller_of(line: str, inbox: str) -> str | None:
    """Return the inbox of the caller, or None if `line` does not greet the process `inbox`."""
    called, _, caller = line.partition(" ")
    return caller if called == inbox and caller else None


def is_accepted(line: str) -> bool:
    """Return whether the process that was called has accepted."""
    return line.encode() + b"\n" == ACCEPTED


class LineReader:
    """Assembles one line from the data that a socket delivers."""

    def __init__(self) -> None:
        self._received = b""

    def receive_data(self, data: bytes) -> str | None:
        """Return the line, or None while its end is missing.

        `data` is empty when the other side has closed. Raises `OSError` for that, and for a line
        that is too long to be a greeting.
        """
        self._received += data
        if not data or len(self._received) > GREETING_BYTES:
            raise OSError(f"expected a lifeline's greeting, got {self._received!r}")
        if not self._received.endswith(b"\n"):
            return None
        return self._received.decode("ascii", "replace").rstrip("\n")
