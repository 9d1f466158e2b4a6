"""How much may wait: in a queue for a worker, and under way in one direction of one connection.

No I/O. Flow control of one connection:

The receiver says how much it takes (`Window`); the sender counts what it has sent and what was
dealt with (`Outflow`), the receiver tells it when that is worth a message (`Inflow`): when half of
the window is used up. So a chat line costs no second message, and one slow browser or consumer
holds up its own sender and nobody else.

A sender may go over by one event, which is at most `PIECE_BYTES` where it could be cut. So a
connection holds at most `bytes` + one event on each side of each direction.

Taught in notebooks/09_relay_and_workers.ipynb.
Read next: `split/link.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_EVENTS = 64
"""Events under way: some bursts of a fast talker; more would only be memory."""

WINDOW_BYTES = 256 * 1024
"""Bytes under way: at the 1 ms that a batch takes there and back, 250 MB/s per connection."""


QUEUE_LETTERS = 1_000
"""Connections that wait in one queue; above, the system is full: 503, or 1013."""

QUEUE_SECONDS = 10.0
"""Seconds that a connection waits for a worker: as long as one takes to start, or to restart."""


@dataclass(frozen=True, slots=True)
class Queue:
    """Where connections wait for a worker: `letters` at most, each for `seconds` at most."""

    name: str
    letters: int = QUEUE_LETTERS
    seconds: float = QUEUE_SECONDS


HTTP, WEBSOCKET = Queue("http"), Queue("websocket")
"""Unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Window:
    """How much a receiver takes before it has dealt with anything."""

    events: int = WINDOW_EVENTS
    bytes: int = WINDOW_BYTES


WINDOW = Window()
"""Unless told otherwise."""


def narrower(one: Window, other: Window) -> Window:
    """What both can take."""
    return Window(min(one.events, other.events), min(one.bytes, other.bytes))


class Outflow:
    """What the sender knows."""

    __slots__ = ("_bytes", "_events", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self._events = 0
        self._bytes = 0

    @property
    def open(self) -> bool:
        """Whether another event may be sent."""
        return self._events < self.window.events and self._bytes < self.window.bytes

    def sent(self, weight: int) -> None:
        """An event of so many bytes is under way."""
        self._events += 1
        self._bytes += weight

    def taken(self, events: int, size: int) -> None:
        """So many more were dealt with at the other end."""
        self._events -= events
        self._bytes -= size


class Inflow:
    """What the receiver knows."""

    __slots__ = ("_bytes", "_events", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self._events = 0
        self._bytes = 0

    def dealt_with(self, weight: int) -> bool:
        """An event was dealt with; whether it is time to tell the sender."""
        self._events += 1
        self._bytes += weight
        return 2 * self._events >= self.window.events or 2 * self._bytes >= self.window.bytes

    @property
    def untold(self) -> bool:
        """Whether there is anything to tell."""
        return self._events > 0

    def tell(self) -> tuple[int, int]:
        """Events and bytes to tell the sender of, who is told with this."""
        told = self._events, self._bytes
        self._events = self._bytes = 0
        return told
