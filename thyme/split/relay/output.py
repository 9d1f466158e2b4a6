"""What a relay has for one peer: written at once if that does not block, else in its turn. No I/O.

A server that can begin to write without blocking (ours) gives `begin(event)`, which says whether it
is done already; what is begun in one round of the hub goes out in one piece. Any other server is
given one event after the other by whoever waits for it (`next`), who is rung when there is one.

Each event is reported with its weight (`dealt_with`) when the peer has taken it, or never will;
what is begun, when it has been written or is about to be.

Read next: `split/relay/connection.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from thyme.asgi import Event
from thyme.errors import Disconnected
from thyme.split.wire import weigh

BEGUN_AT_ONCE = frozenset({"websocket.send", "http.response.start", "http.response.body"})
"""Events that our own server can begin to write without blocking."""

FINISH: Event = {"type": "finish"}
"""Stands for an event that has been begun, and waits for the peer."""


class Output:
    """Events on their way to one peer; `failed(error)` is called when one cannot be sent."""

    begin: Callable[[Event], bool] | None = None

    def __init__(
        self, dealt_with: Callable[[int], None], failed: Callable[[Exception], None]
    ) -> None:
        self.ring: Callable[[], None] = _nobody
        self._dealt_with = dealt_with
        self._failed = failed
        self._events: deque[Event] = deque()
        self._idle = True  # nothing is being written

    def put(self, event: Event, weight: int) -> None:
        """Another event for the peer."""
        if not (self._idle and self.begin is not None and event["type"] in BEGUN_AT_ONCE):
            self.add(event)
            return
        try:
            whole = self.begin(event)
        except Disconnected:  # the peer's disconnect is on its way to the worker
            whole = True
        except Exception as error:
            self._failed(error)
            return
        if whole:
            self._dealt_with(weight)
        else:
            self.add({**FINISH, "weight": weight})

    def add(self, *events: Event) -> None:
        """Events that are not begun here."""
        self._idle = False
        self._events.extend(events)
        self.ring()

    def next(self) -> Event | None:
        """The next event to send, or None: wait to be rung.

        Say `sent(event)` of each when the peer has taken it. One of type "finish" stands for an
        event that has been begun.
        """
        if self._events:
            return self._events.popleft()
        self._idle = True
        return None

    def sent(self, event: Event) -> None:
        """The peer has taken it, or never will."""
        self._dealt_with(event["weight"] if event["type"] == "finish" else weigh(event))


def _nobody() -> None:
    """Nobody waits."""
