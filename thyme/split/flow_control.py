"""Flow control: how much may wait in a queue, and be in transit on one connection. No I/O.

Without it, a worker that sends faster than a browser reads would fill the server's memory: between
processes there is no socket buffer that blocks the sender. So each direction of each connection has
a *window*, as a stream of HTTP/2 or a TCP connection has:

    sender                                      receiver
    SendWindow                                  ReceiveWindow(window)
      sent(size) for each event      ──────►      consumed(size) when the event has been handled
      open: may another one be sent?                └─ True: worth a message
      acknowledged(events, bytes)    ◄──────      take_ack(): events and bytes since the last one

Two numbers are counted, because both cost memory: a million empty messages have no bytes. The
receiver acknowledges when half of the window is used up. An acknowledgement per event would double
the number of messages; one at the end of the window would let the sender stand still for a round
trip. So a chat line costs no second message, and a slow browser or consumer holds up its own sender
and no other.

A sender may exceed the window by one event, which is at most `CHUNK_BYTES` where it can be split.
So a connection occupies at most `bytes` plus one event, on each side and in each direction.

Taught in notebooks/09_relay_and_workers.ipynb.
Read next: `split/link.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_EVENTS = 64
"""Events in transit: a few bursts of a fast sender. More would only cost memory."""

WINDOW_BYTES = 256 * 1024
"""Bytes in transit: with a round trip of 1 ms, 250 MB/s per connection."""

QUEUE_CAPACITY = 1_000
"""Connections that wait in one queue. Above that the system is overloaded: 503, or 1013."""

QUEUE_SECONDS = 10.0
"""Seconds that a connection waits for a worker: as long as a worker needs to start or restart."""


@dataclass(frozen=True, slots=True)
class Queue:
    """Where connections wait for a worker: at most `capacity` of them, each at most `seconds`."""

    name: str
    capacity: int = QUEUE_CAPACITY
    seconds: float = QUEUE_SECONDS


HTTP_QUEUE, WEBSOCKET_QUEUE = Queue("http"), Queue("websocket")
"""Defaults."""


@dataclass(frozen=True, slots=True)
class Window:
    """The events and bytes that a receiver accepts before it has consumed any of them."""

    events: int = WINDOW_EVENTS
    bytes: int = WINDOW_BYTES


DEFAULT_WINDOW = Window()
"""Default."""


def min_window(one: Window, other: Window) -> Window:
    """Return the window that both sides allow."""
    return Window(min(one.events, other.events), min(one.bytes, other.bytes))


class SendWindow:
    """The sender's count of what is in transit."""

    __slots__ = ("_bytes", "_events", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self._events = 0
        self._bytes = 0

    @property
    def open(self) -> bool:
        """Return whether another event may be sent."""
        return self._events < self.window.events and self._bytes < self.window.bytes

    def sent(self, size: int) -> None:
        """Count an event of `size` bytes that was sent."""
        self._events += 1
        self._bytes += size

    def acknowledged(self, events: int, size: int) -> None:
        """Count `events` of `size` bytes altogether that the receiver has consumed."""
        self._events -= events
        self._bytes -= size


class ReceiveWindow:
    """The receiver's count of what it has consumed and not acknowledged yet."""

    __slots__ = ("_bytes", "_events", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self._events = 0
        self._bytes = 0

    def consumed(self, size: int) -> bool:
        """Count an event of `size` bytes; return whether to acknowledge now."""
        self._events += 1
        self._bytes += size
        return 2 * self._events >= self.window.events or 2 * self._bytes >= self.window.bytes

    @property
    def pending_ack(self) -> bool:
        """Return whether anything has been consumed that is not acknowledged yet."""
        return self._events > 0

    def take_ack(self) -> tuple[int, int]:
        """Return the events and bytes to acknowledge, and count them as acknowledged."""
        ack = self._events, self._bytes
        self._events = self._bytes = 0
        return ack
