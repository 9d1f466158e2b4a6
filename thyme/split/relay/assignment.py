"""One worker's assignment to a connection, as the relay knows it. No I/O.

`split/relay/connection.py` decides what follows from its states.
"""

from __future__ import annotations

from typing import Any

from thyme.asgi import Event
from thyme.split.flow_control import ReceiveWindow
from thyme.split.link import Link
from thyme.split.states import ASSIGNMENT, AssignmentState, AssignmentTrigger, next_state
from thyme.split.wire import WINDOW_UPDATE


class Assignment:
    """A worker assigned to a connection.

    `number` identifies the assignment on the worker's link. `next_event` is the number of the first
    of the peer's events that this worker has not been sent. `resumes`: the peer is connected
    already, because this worker succeeds another one. `link` is None before the worker's hello,
    `inbox` as well until Redis tells which worker has the opening.
    """

    __slots__ = ("_window", "inbox", "link", "next_event", "number", "resumes", "state")

    def __init__(self, number: int, next_event: int, resumes: bool, window: ReceiveWindow) -> None:
        self.number = number
        self.next_event = next_event
        self.resumes = resumes
        self.inbox: str | None = None
        self.link: Link | None = None
        self.state = AssignmentState.OFFERED
        self._window = window

    def fire(self, trigger: AssignmentTrigger) -> None:
        """Change the state."""
        self.state = next_state(ASSIGNMENT, self.state, trigger)

    @property
    def in_charge(self) -> bool:
        """Return whether the worker believes that it is responsible for the connection, or will."""
        return self.state not in (AssignmentState.RELEASED, AssignmentState.ENDED)

    def send(self, kind: str, *arguments: Any) -> None:
        """Send an entry to the worker, unless the link is missing or closed."""
        if self.link is not None and not self.link.closed:
            self.link.send(self.number, kind, *arguments)

    def send_event(self, event: Event, size: int) -> None:
        """Send the next one of the peer's events to the worker."""
        self.next_event += 1
        if self.link is not None and not self.link.closed:
            self.link.send_event(self.number, event, size)

    def consumed(self, size: int) -> None:
        """Count an event of this worker that the peer has read, or will never read."""
        if self._window.consumed(size):
            self.send(WINDOW_UPDATE, *self._window.take_ack())
