"""The events that a relay has for one peer. No I/O.

A server of ours can send without blocking (`Transport.send_nowait`). Then an event is sent at once,
in the greenlet that has received it from the worker, and everything that arrives in one round of
the hub goes out in one piece. Only when the peer does not read fast enough, or for the types of
events that may block, a greenlet of the connection takes over: it is notified, and fetches one
`Write` after the other. An ASGI server on asyncio can only block: there each event goes that way.

Each event is reported with its size (`on_written`) when the peer has read it, or never will; an
event that was sent without blocking, when it is in the kernel's hands or about to be.

Read next: `split/relay/connection.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from thyme.asgi import SENT_NOWAIT, Event
from thyme.errors import Disconnected
from thyme.split.wire import event_size

DRAIN: Event = {"type": "drain"}
"""Stands for an event that has been passed to `send_nowait`: call `drain` instead of `send`."""


class Write(NamedTuple):
    """One step for the greenlet or task that writes: send `event`, which counts `size` bytes."""

    event: Event
    size: int


class Output:
    """The events on their way to one peer.

    `notify()` is called when `next` has something to return; `on_written(size)` for each event;
    `on_error(error)` when an event cannot be sent. `send_nowait` is the server's, if it has one.
    """

    def __init__(
        self,
        *,
        notify: Callable[[], None],
        on_written: Callable[[int], None],
        on_error: Callable[[Exception], None],
        send_nowait: Callable[[Event], bool] | None = None,
    ) -> None:
        self._notify = notify
        self._on_written = on_written
        self._on_error = on_error
        self._send_nowait = send_nowait
        self._writes: deque[Write] = deque()
        self._writing = False  # order: nothing is sent past an event that waits

    def put(self, event: Event, size: int) -> None:
        """Send an event now if that does not block, else in its turn."""
        if self._writing or self._send_nowait is None or event["type"] not in SENT_NOWAIT:
            self._append(Write(event, size))
            return
        try:
            complete = self._send_nowait(event)
        except Disconnected:  # the peer's disconnect is on its way to the worker
            complete = True
        except Exception as error:
            self._on_error(error)
            return
        if complete:
            self._on_written(size)
        else:
            self._append(Write(DRAIN, size))

    def append(self, *events: Event) -> None:
        """Send events of the relay itself, after all others."""
        for event in events:
            self._append(Write(event, event_size(event)))

    def _append(self, write: Write) -> None:
        self._writing = True
        self._writes.append(write)
        self._notify()

    def next(self) -> Write | None:
        """Return the next step, or None: wait for `notify`. Report each step with `written`."""
        if self._writes:
            return self._writes.popleft()
        self._writing = False
        return None

    def written(self, write: Write) -> None:
        """The peer has read this, or never will."""
        self._on_written(write.size)
