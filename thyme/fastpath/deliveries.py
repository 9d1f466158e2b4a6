"""Messages of the channel layer, brought to synchronous consumers by one greenlet for all.

A line in a room of 500 makes 500 consumers due at once, and a greenlet for each would cost more
than most of their handlers do. So one greenlet goes from consumer to consumer. When a handler waits
(for its database, or for a peer that does not read) gevent tells us, and another greenlet goes on
with the rest: handlers that wait do so side by side, those that do not cost no greenlet.

    due: ann, bob, carl, dora …      greenlet 1   ann ─► bob (waits for Postgres ………………) ─► ends
                                     greenlet 2            └► carl ─► dora ─► …

This file decides which greenlet calls; what is called is the conversation's of
`fastpath/sync_consumers.py`. Read next: `fastpath/pages.py`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from django.db import connections
from gevent import monkey

from thyme.fastpath.database import used_database
from thyme.loop.shared import belong_to, shared_loop

TURN_SECONDS = 0.005
"""After so long the hub has a round: sockets are polled, others run. As gevent's own callbacks."""

SHORT_TURN_SECONDS = 0.001
"""The same, when those whose turn it is have not had many rounds yet: see `ROUNDS`."""

ROUNDS = 8
"""Short turns while one goes once through all that were due. So whoever speaks a line after the
other to many is heard in time to have some lines delivered together, with one system call for each
hearer; and what comes meanwhile to one of them stays few: a channel has room for 100 by default."""

_LAST = -1  # gevent's priorities: after the sockets


class Deliveries:
    """Those to whom something is to be brought, in one thread: each is a function to call.

    The functions may block, and must not raise.
    """

    def __init__(self) -> None:
        self._due: deque[Callable[[], None]] = deque()
        self._current: Any = None  # the greenlet that goes from one to the next
        self._round: Any = None  # a timer: one round of the hub, between two turns
        self._left = 0  # of those that were due together
        self._rounds = 0  # that they have had

    def add(self, call: Callable[[], None]) -> None:
        """Have `call` called soon, once; never blocks."""
        self._due.append(call)
        if self._current is None and self._round is None:
            self._current = gevent.spawn_raw(self._run)

    def _run(self) -> None:
        greenlet, due = gevent.getcurrent(), self._due
        belong_to(shared_loop())
        greenlet.switch_out = self._waits
        until = time.monotonic() + self._turn_seconds()
        try:
            while due and self._current is greenlet:
                self._left -= 1
                due.popleft()()
                if time.monotonic() >= until:
                    break
            if due and self._current is greenlet:
                self._current = None
                self._give_a_round()
        finally:
            self._waits()
            if used_database(greenlet):
                connections.close_all()  # those of this greenlet, which ends

    def _turn_seconds(self) -> float:
        if self._left <= 0:
            self._left, self._rounds = len(self._due), 0
        self._rounds += 1
        return SHORT_TURN_SECONDS if self._rounds <= ROUNDS else TURN_SECONDS

    def _give_a_round(self) -> None:
        """Go on after a round of the hub. A greenlet would run before sockets are polled."""
        self._round = gevent.get_hub().loop.timer(0, priority=_LAST)
        self._round.start(self._go_on)

    def _go_on(self) -> None:
        self._round.close()
        self._round = None
        self._current = gevent.spawn_raw(self._run)

    def _waits(self) -> None:
        """The greenlet that goes from one to the next waits, or ends: another one goes on."""
        if gevent.getcurrent() is self._current:
            self._current = gevent.spawn_raw(self._run) if self._due else None


_of_this_thread = monkey.get_original("_thread", "_local")()


def deliveries() -> Deliveries:
    """Those of this thread."""
    found: Deliveries | None = getattr(_of_this_thread, "deliveries", None)
    if found is None:
        found = _of_this_thread.deliveries = Deliveries()
    return found
