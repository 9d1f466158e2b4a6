"""The desk of a process with a relay: finds a worker for each connection, and another when it dies.

What can be set of a relay stands here, too. What is the same for both desks, and how the dead are
found: `split/endpoint.py`. No waiting here.

Read next: `split/relay/gevent.py`, the relay on gevent.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from functools import partial
from typing import Any

from gredis.errors import GredisError
from gredis.messages import pack
from gredis.session import TIMEOUT_SECONDS
from thyme.asgi import Scope
from thyme.split.endpoint import DOUBTS, Desk, Driver
from thyme.split.flow_control import Window
from thyme.split.link import Link
from thyme.split.relay.assignment import Attempt
from thyme.split.relay.connection import Relayed
from thyme.split.relay.options import RelayOptions
from thyme.split.wire import BACK, END, EVENT, HELLO, LEAVE, NOTE, RELEASE, TAKEN, VERSION, weigh

log = logging.getLogger("thyme.relay")

HELLO_SECONDS = 1.0
"""Seconds until a worker that has been given a connection, and says nothing, may be dead."""

SETTLE_LIMIT = TIMEOUT_SECONDS
"""Seconds at most that a worker's lines wait for the last ones of the worker that leaves. They come
in some milliseconds; but that one may just now be cut off from Redis."""

LOOK_SECONDS = 0.25
"""Between two looks at those who wait; there is none while nobody does."""


class RelayDesk(Desk):
    """The desk of a process that relays connections."""

    def __init__(self, end: Any, driver: Driver, options: RelayOptions) -> None:
        super().__init__(end, driver)
        self.window = options.window
        self._queue_of = options.queue_of
        self._lifeline = options.lifeline
        self._place: str | None = None
        self._numbers = itertools.count(1)
        self._attempts: dict[int, tuple[Relayed, Attempt]] = {}
        self._pending: dict[int, tuple[float, float]] = {}  # when asked, when to give up
        self._looking = False
        self._settling: deque[tuple[float, Relayed, Attempt]] = deque()

    def begin(self, scope: Scope) -> Relayed:
        """A connection has come. Give it the peer's first event, then `open` it."""
        stream = f"{self.end.inbox}.{next(self._numbers)}"
        half = Relayed(scope, stream, self.window, self._queue_of(scope))
        half.soon_settle = partial(self._soon_settle, half)
        return half

    def _soon_settle(self, half: Relayed, leaving: Attempt) -> None:
        self._settling.append((time.monotonic() + SETTLE_LIMIT, half, leaving))
        if len(self._settling) == 1:
            self.end.call_later(SETTLE_LIMIT, self._settle)

    def _settle(self) -> None:
        """Whoever still waits for another worker's last lines has waited long enough."""
        now = time.monotonic()
        while self._settling and self._settling[0][0] <= now:
            _, half, leaving = self._settling.popleft()
            half.settle(leaving)
        if self._settling and not self.end.closed:
            self.end.call_later(self._settling[0][0] - now, self._settle)

    def open(self, half: Relayed) -> None:
        """Give the connection to a worker that has room; it may wait for one."""
        number, queue = next(self._numbers), half.queue
        attempt = half.begin_attempt(number)
        self._attempts[number] = half, attempt
        if self._lifeline is not None and self._place is None:
            self._place = self.driver.listen(self._lifeline, self) or ""
        opening = half.opening(attempt, self._name, self._place or None)
        now = time.monotonic()
        self._pending[number] = now, now + queue.seconds
        opening["wait"] = queue.seconds
        try:
            reply = self.end.anycast_packed(queue.name, pack(opening), queue.letters, queue.seconds)
        except (GredisError, TypeError) as error:
            self._asked(half, attempt, None, error)
        else:
            self.driver.when_done(reply, lambda *done: self._asked(half, attempt, *done))

    def _asked(self, half: Relayed, attempt: Attempt, value: Any, error: Exception | None) -> None:
        if error is not None:
            log.error("cannot reach the workers: %s", error)
            self._give_up(half, attempt, 502, 1012, "The workers cannot be reached")
        elif value == b"FULL":
            self._give_up(half, attempt, 503, 1013, "All workers are busy")
        elif attempt.connection in self._pending:
            if value != b"WAITING" and attempt.inbox is None:
                attempt.inbox = value.decode()
            if not self._looking:
                self._looking = True
                self.end.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Who waits too long, is told so; a worker that says nothing is asked for."""
        self._looking = False
        now = time.monotonic()
        for number, (asked, limit) in list(self._pending.items()):
            half, attempt = self._attempts[number]
            if now >= limit:
                self._give_up(half, attempt, 503, 1013, "No worker has room")
            elif attempt.inbox is not None and now - asked >= HELLO_SECONDS:
                self._pending[number] = now, limit
                self._ask_for(half, attempt)
        if self._pending and not self.end.closed:
            self._looking = True
            self.end.call_later(LOOK_SECONDS, self._look)

    def _ask_for(self, half: Relayed, attempt: Attempt) -> None:
        def answered(value: Any, error: Exception | None) -> None:
            if value == b"GONE" and attempt.connection in self._pending:
                self._forget(attempt)
                self._worker_died(half, attempt)

        self.driver.when_done(self.end.probe(attempt.inbox), answered)

    def _give_up(
        self, half: Relayed, attempt: Attempt, status: int, code: int, reason: str
    ) -> None:
        self._forget(attempt)
        attempt.ended = True
        if half.attempt is attempt:
            half.refuse(status, code if not attempt.resumes else 1012, reason)

    def _forget(self, attempt: Attempt) -> None:
        self._pending.pop(attempt.connection, None)
        self._attempts.pop(attempt.connection, None)
        if attempt.link is not None:
            attempt.link.connections.pop(attempt.connection, None)

    def end_of(self, half: Relayed) -> None:
        """The server has done with this connection."""
        half.abandon()
        for attempt in (half.attempt, half.leaving):
            if attempt is not None:
                self._forget(attempt)

    # -- what workers say

    def entry(self, link: Link, entry: list[Any]) -> None:
        """Deal with one entry of a batch."""
        connections, kind, *what = entry
        if kind == EVENT:
            event, once = what
            weight = weigh(event)
            for number in connections:
                if (found := link.connections.get(number)) is not None:
                    try:
                        found[0].event(found[1], event, weight, once)
                    except Exception as error:  # of this connection, and none of the others'
                        found[0].fail(error)
            return
        number = connections[0]
        if kind == HELLO:
            self._hello(link, number, *what[:3])
            return
        found = link.connections.get(number)
        if found is not None:
            half, attempt = found
            self._say_to(half, attempt, kind, what)

    def _hello(self, link: Link, number: int, version: int, window: list[int], _: Any) -> None:
        found = self._attempts.get(number)
        if found is None or number not in self._pending:
            link.say(number, RELEASE, False)  # who asked has given up, or found another one
            return
        del self._pending[number]
        if not link.known:
            link.known = True  # should it die before it holds its lifeline
            self.end.call_later(HELLO_SECONDS, partial(self._expect_lifeline, link.inbox))
        link.version = version
        link.connections[number] = found
        half, attempt = found
        half.hello(attempt, link, Window(*window))

    def _expect_lifeline(self, inbox: str) -> None:
        if inbox not in self.taken:
            self.lifeline_ended(inbox, _nothing, len(DOUBTS))

    def _say_to(self, half: Relayed, attempt: Attempt, kind: str, what: list[Any]) -> None:
        if kind == TAKEN:
            half.taken(attempt, *what)
        elif kind == NOTE:
            half.keep_note(attempt, what[0])
        elif kind == END:
            half.end(attempt, what[0])
            self._forget(attempt)
        elif kind == LEAVE:
            if half.leave(attempt):
                self.open(half)
        elif kind == BACK:
            self._forget(attempt)
            attempt.ended = True
            if half.attempt is attempt and not half.over:
                self.open(half)

    def old_version(self, letter: dict[str, Any]) -> None:
        """A worker has no version in common with us."""
        found = self._attempts.get(letter.get("connection", 0))
        inbox = str(letter.get("from", "")).partition("!")[0]
        log.error(
            "a worker of another release does not speak version %d, and we no other: "
            "run the same release of thyme on both",
            VERSION,
        )
        if found is not None:
            self._give_up(*found, 500, 1011, "Internal Server Error")
            return
        for half, attempt in list(self._attempts.values()):  # version 1 does not say which
            if attempt.inbox == inbox and attempt.connection in self._pending:
                self._give_up(half, attempt, 500, 1011, "Internal Server Error")

    def lost(self, half: tuple[Relayed, Attempt], alive: bool) -> None:
        """Its worker is dead, or has thought so of us."""
        relayed, attempt = half
        self._forget(attempt)
        self._worker_died(relayed, attempt)

    def _worker_died(self, half: Relayed, attempt: Attempt) -> None:
        if half.died(attempt):
            self.open(half)

    def forgotten(self) -> None:
        """Redis has come back empty: a WebSocket that waited there shall wait there again.

        A request may have begun just before, and must not be carried out twice: it waits in vain.
        """
        for number in list(self._pending):
            half, attempt = self._attempts[number]
            if half.type == "websocket":
                self._forget(attempt)
                self.open(half)

    def gone(self, inbox: str) -> None:
        """That process is dead, or taken for dead by all."""
        super().gone(inbox)
        for number in list(self._pending):
            half, attempt = self._attempts[number]
            if attempt.inbox == inbox:
                self._forget(attempt)
                self._worker_died(half, attempt)


def _nothing() -> None:
    """It lives."""
