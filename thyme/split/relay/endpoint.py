"""The endpoint of a process with a relay: finds a worker for each connection. No I/O.

A connection is offered to a queue in gredis, which gives it to the worker with most room, or keeps
it until a worker has room. When the worker dies or stops, a connection that allows it is offered
again. `split/relay/connection.py` decides whether it does; this module finds out that it must.

Read next: `split/relay/gevent.py`, the relay on gevent.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

from gredis.errors import GredisError
from gredis.messages import pack
from thyme.asgi import Event, Scope
from thyme.protocol.close_codes import CloseCode
from thyme.split.endpoint import DOUBTS, Driver, Endpoint
from thyme.split.flow_control import Window
from thyme.split.link import Link
from thyme.split.relay.assignment import Assignment
from thyme.split.relay.connection import RelayedConnection
from thyme.split.relay.options import RelayOptions
from thyme.split.wire import (
    END,
    EVENT,
    HELLO,
    LEAVE,
    NOTE,
    RELEASE,
    REQUEUE,
    VERSION,
    WINDOW_UPDATE,
    event_size,
)

log = logging.getLogger("thyme.relay")

HELLO_SECONDS = 1.0
"""Seconds without a hello, after which a worker that has the opening may be dead."""

TAKEOVER_SECONDS = 10.0
"""Seconds at most that a successor's output waits for the departing worker's last output. It takes
some milliseconds; but that worker may be cut off from Redis, and for so long gredis waits as well
(its `patience`)."""

CHECK_SECONDS = 0.25
"""Pause between checks of the connections that wait for a worker. No checks while none does."""


class Pending(NamedTuple):
    """When a connection was offered, or its worker last probed; and when it has waited too long."""

    since: float
    deadline: float


class RelayEndpoint(Endpoint):
    """The endpoint of a process that relays connections."""

    def __init__(self, crossbar: Any, driver: Driver, options: RelayOptions) -> None:
        super().__init__(crossbar, driver)
        self.options = options
        self.lifeline_place: str | None = None  # "" when there is none
        self._numbers = itertools.count(1)
        self._assignments: dict[int, tuple[RelayedConnection, Assignment]] = {}
        self._pending: dict[int, Pending] = {}  # assignments without a hello
        self._checking = False
        self._takeovers: deque[tuple[float, RelayedConnection, Assignment]] = deque()

    @property
    def assignments(self) -> int:
        """The number of assignments that have not ended."""
        return len(self._assignments)

    @property
    def pending(self) -> int:
        """The number of connections that wait for a worker's hello."""
        return len(self._pending)

    @property
    def takeovers(self) -> int:
        """The number of takeovers that have not reached their time limit, ended or not."""
        return len(self._takeovers)

    # -- connections

    def new_connection(
        self,
        scope: Scope,
        *,
        notify: Callable[[], None],
        on_room: Callable[[], None],
        send_nowait: Callable[[Event], bool] | None = None,
    ) -> RelayedConnection:
        """Return a new connection. Give it the peer's first event, then call `assign`."""
        return RelayedConnection(
            scope,
            f"{self.inbox}.{next(self._numbers)}",
            self.options.window,
            self.options.queue_for(scope),
            notify=notify,
            on_room=on_room,
            on_takeover=self._limit_takeover,
            send_nowait=send_nowait,
        )

    def _limit_takeover(self, connection: RelayedConnection, departing: Assignment) -> None:
        self._takeovers.append((time.monotonic() + TAKEOVER_SECONDS, connection, departing))
        if len(self._takeovers) == 1:
            self.crossbar.call_later(TAKEOVER_SECONDS, self._finish_takeovers)

    def _finish_takeovers(self) -> None:
        """Finish the takeovers whose departing worker has had its time."""
        now = time.monotonic()
        while self._takeovers and self._takeovers[0][0] <= now:
            _, connection, departing = self._takeovers.popleft()
            connection.finish_takeover(departing)
        if self._takeovers and not self.crossbar.closed:
            self.crossbar.call_later(self._takeovers[0][0] - now, self._finish_takeovers)

    def assign(self, connection: RelayedConnection) -> None:
        """Offer the connection to a worker that has room, now or when there is one."""
        number, queue = next(self._numbers), connection.queue
        assignment = connection.assign(number)
        self._assignments[number] = connection, assignment
        if self.options.lifeline is not None and self.lifeline_place is None:
            self.lifeline_place = self.driver.accept_lifelines(self.options.lifeline, self) or ""
        opening = connection.opening(assignment, self._name, self.lifeline_place or None)
        now = time.monotonic()
        self._pending[number] = Pending(now, now + queue.seconds)
        try:
            packed = pack(opening)
            reply = self.crossbar.anycast_packed(queue.name, packed, queue.capacity, queue.seconds)
        except (GredisError, TypeError) as error:
            self._on_offered(connection, assignment, None, error)
        else:
            self.driver.when_done(reply, partial(self._on_offered, connection, assignment))

    def _on_offered(
        self,
        connection: RelayedConnection,
        assignment: Assignment,
        value: Any,
        error: Exception | None,
    ) -> None:
        """Redis has the opening, or not: `value` is FULL, WAITING or the inbox of a worker."""
        if error is not None:
            log.error("cannot reach the workers: %s", error)
            self._withdraw(
                connection,
                assignment,
                502,
                CloseCode.SERVICE_RESTART,
                "The workers cannot be reached",
            )
        elif value == b"FULL":
            self._withdraw_busy(connection, assignment, "All workers are busy")
        elif assignment.number in self._pending:
            if value != b"WAITING" and assignment.inbox is None:
                assignment.inbox = value.decode()
            self._check_later()

    def _check_later(self) -> None:
        if not self._checking:
            self._checking = True
            self.crossbar.call_later(CHECK_SECONDS, self._check_pending)

    def _check_pending(self) -> None:
        """Refuse connections that have waited too long; probe workers that have not answered."""
        self._checking = False
        now = time.monotonic()
        for number, (since, deadline) in list(self._pending.items()):
            connection, assignment = self._assignments[number]
            if now >= deadline:
                self._withdraw_busy(connection, assignment, "No worker has room")
            elif assignment.inbox is not None and now - since >= HELLO_SECONDS:
                self._pending[number] = Pending(now, deadline)
                self._probe(connection, assignment)
        if self._pending and not self.crossbar.closed:
            self._check_later()

    def _probe(self, connection: RelayedConnection, assignment: Assignment) -> None:
        def answered(value: Any, error: Exception | None) -> None:
            if value == b"GONE" and assignment.number in self._pending:
                self._forget(assignment)
                self._handle_worker_death(connection, assignment)

        self.driver.when_done(self.crossbar.probe(assignment.inbox), answered)

    def _withdraw_busy(
        self, connection: RelayedConnection, assignment: Assignment, reason: str
    ) -> None:
        self._withdraw(connection, assignment, 503, CloseCode.TRY_AGAIN_LATER, reason)

    def _withdraw(
        self,
        connection: RelayedConnection,
        assignment: Assignment,
        status: int,
        code: CloseCode,
        reason: str,
    ) -> None:
        self._forget(assignment)
        connection.withdraw(assignment, status, code, reason)

    def _forget(self, assignment: Assignment) -> None:
        self._pending.pop(assignment.number, None)
        self._assignments.pop(assignment.number, None)
        if assignment.link is not None:
            assignment.link.connections.pop(assignment.number, None)

    def release(self, connection: RelayedConnection) -> None:
        """Release a connection that the server has finished with."""
        connection.release()
        for assignment in (connection.assignment, connection.departing):
            if assignment is not None:
                self._forget(assignment)

    # -- entries from workers

    def handle_entry(self, link: Link, entry: list[Any]) -> None:
        """Handle one entry of a batch."""
        connections, kind, *arguments = entry
        if kind == EVENT:
            self._handle_event(link, connections, *arguments)
            return
        number = connections[0]
        if kind == HELLO:
            self._handle_hello(link, number, *arguments[:2])
            return
        found, handler = link.connections.get(number), self._HANDLERS.get(kind)
        if found is not None and handler is not None:
            handler(self, *found, *arguments)

    def _handle_event(self, link: Link, connections: list[int], event: Event, once: Any) -> None:
        size = event_size(event)
        for number in connections:
            if (found := link.connections.get(number)) is not None:
                connection, assignment = found
                try:
                    connection.handle_event(assignment, event, size, once)
                except Exception as error:  # this connection's, and none of the others'
                    connection.fail(error)

    def _handle_hello(self, link: Link, number: int, version: int, window: list[int]) -> None:
        found = self._assignments.get(number)
        if found is None or number not in self._pending:
            link.send(number, RELEASE, False)  # the peer has left, or another worker has answered
            return
        del self._pending[number]
        if not link.greeted:
            link.greeted = True
            self.crossbar.call_later(
                HELLO_SECONDS, partial(self._expect_lifeline, link.remote_inbox)
            )
        link.connections[number] = found
        connection, assignment = found
        connection.handle_hello(assignment, link, Window(*window))

    def _expect_lifeline(self, inbox: str) -> None:
        """Ask for a worker that holds no lifeline yet: it may have died before it could open one.

        Without doubts: a lifeline that has never existed cannot have ended before Redis noticed.
        """
        if inbox not in self.lifelines_in:
            self.lifeline_ended(inbox, _do_nothing, len(DOUBTS))

    def _handle_window_update(
        self, connection: RelayedConnection, assignment: Assignment, events: int, size: int
    ) -> None:
        connection.handle_window_update(assignment, events, size)

    def _handle_note(
        self, connection: RelayedConnection, assignment: Assignment, note: bytes | None
    ) -> None:
        connection.handle_note(assignment, note)

    def _handle_end(
        self, connection: RelayedConnection, assignment: Assignment, outcome: str
    ) -> None:
        connection.handle_end(assignment, outcome)
        self._forget(assignment)

    def _handle_leave(self, connection: RelayedConnection, assignment: Assignment) -> None:
        if connection.handle_leave(assignment):
            self.assign(connection)

    def _handle_requeue(self, connection: RelayedConnection, assignment: Assignment) -> None:
        self._forget(assignment)
        if connection.handle_requeue(assignment):
            self.assign(connection)

    _HANDLERS: ClassVar[dict[str, Callable[..., None]]] = {
        WINDOW_UPDATE: _handle_window_update,
        NOTE: _handle_note,
        END: _handle_end,
        LEAVE: _handle_leave,
        REQUEUE: _handle_requeue,
    }

    def handle_unsupported_version(self, message: dict[str, Any]) -> None:
        """Handle the refusal of a worker that supports none of our versions."""
        log.error(
            "a worker of another release does not support protocol version %d: run the same "
            "release of thyme in servers and workers",
            VERSION,
        )
        found = self._assignments.get(message.get("connection", 0))
        if found is not None:
            refused = [found]
        else:  # a worker of version 1 does not name the connection
            inbox = str(message.get("from", "")).partition("!")[0]
            refused = [
                (connection, assignment)
                for connection, assignment in self._assignments.values()
                if assignment.inbox == inbox and assignment.number in self._pending
            ]
        for connection, assignment in refused:
            self._withdraw(
                connection, assignment, 500, CloseCode.INTERNAL_ERROR, "Internal Server Error"
            )

    # -- losses

    def on_connection_lost(
        self, connection: tuple[RelayedConnection, Assignment], process_alive: bool
    ) -> None:
        """A worker is dead, or has taken us for dead and dropped its connections."""
        relayed, assignment = connection
        self._forget(assignment)
        self._handle_worker_death(relayed, assignment)

    def _handle_worker_death(self, connection: RelayedConnection, assignment: Assignment) -> None:
        if connection.handle_worker_death(assignment):
            self.assign(connection)

    def on_redis_emptied(self) -> None:
        """Offer WebSockets again that were waiting in Redis.

        Not requests: a worker may have begun one just before, and it must not be executed twice.
        They wait until their time is over.
        """
        for number in list(self._pending):
            connection, assignment = self._assignments[number]
            if connection.type == "websocket":
                self._forget(assignment)
                self.assign(connection)

    def on_process_gone(self, inbox: str) -> None:
        """The process `inbox` is dead, or all others have agreed that it is."""
        super().on_process_gone(inbox)
        for number in list(self._pending):
            connection, assignment = self._assignments[number]
            if assignment.inbox == inbox:
                self._forget(assignment)
                self._handle_worker_death(connection, assignment)


def _do_nothing() -> None:
    """No-op: the process is alive."""
