"""Delivery of channel messages to synchronous consumers, by one greenlet for all of them.

A message to a room of 500 makes 500 consumers due at once, and a greenlet for each would cost more
than most of their handlers do. So one greenlet calls one consumer after the other. When a handler
blocks (on its database, or on a peer that does not read), gevent calls the greenlet's `switch_out`,
and another greenlet continues with the rest. So handlers that block do it at the same time, and
handlers that do not block cost no greenlet.

    due: ann, bob, carl, dora …      greenlet 1   ann ─► bob (blocks on Postgres ………………) ─► exits
                                     greenlet 2            └► carl ─► dora ─► …

This module decides which greenlet calls; what is called is `SyncConsumerRunner` in
`sync_consumers.py`. Read next: `async_consumers.py`.
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
from thyme.loop.shared import shared_loop, use_for_async_to_sync

TURN_SECONDS = 0.005
"""After so many seconds of delivering, the hub polls sockets and runs other greenlets. The same as
the limit for gevent's own callbacks."""

SHORT_TURN_SECONDS = 0.001
"""The same, for the first `SHORT_TURNS` turns of a batch."""

SHORT_TURNS = 8
"""Short turns at the beginning of a batch, which is all consumers that are due at one time. They
let the server read a second message of a fast sender while the first is being delivered, so that
most receivers get both with one system call; and they keep the messages that arrive meanwhile for
one consumer few: a channel has room for 100 by default."""

_LAST = -1  # gevent's priorities: after the sockets


class Deliveries:
    """The deliveries that are due in one thread: functions that may block and must not raise."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], None]] = deque()
        self._delivering: Any = None  # the greenlet that calls, unless it blocks
        self._pause: Any = None  # a timer: one round of the hub, between two turns
        self._left_of_batch = 0
        self._turns_of_batch = 0

    def add(self, call: Callable[[], None]) -> None:
        """Have `call` called soon, once. Never blocks."""
        self._due.append(call)
        if self._delivering is None and self._pause is None:
            self._delivering = gevent.spawn_raw(self._run)

    def _run(self) -> None:
        greenlet, due = gevent.getcurrent(), self._due
        use_for_async_to_sync(shared_loop())
        greenlet.switch_out = self._hand_over
        until = time.monotonic() + self._turn_seconds()
        try:
            while due and self._delivering is greenlet:
                self._left_of_batch -= 1
                due.popleft()()
                if time.monotonic() >= until:
                    break
            if due and self._delivering is greenlet:
                self._delivering = None
                self._pause_for_a_round()
        finally:
            self._hand_over()
            if used_database(greenlet):
                connections.close_all()  # those of this greenlet, which exits

    def _turn_seconds(self) -> float:
        if self._left_of_batch <= 0:
            self._left_of_batch, self._turns_of_batch = len(self._due), 0
        self._turns_of_batch += 1
        return SHORT_TURN_SECONDS if self._turns_of_batch <= SHORT_TURNS else TURN_SECONDS

    def _pause_for_a_round(self) -> None:
        """Continue after a round of the hub; a new greenlet would run before sockets are polled."""
        self._pause = gevent.get_hub().loop.timer(0, priority=_LAST)
        self._pause.start(self._continue)

    def _continue(self) -> None:
        self._pause.close()
        self._pause = None
        self._delivering = gevent.spawn_raw(self._run)

    def _hand_over(self) -> None:
        """Start another greenlet if the calling one, which blocks or exits, was delivering."""
        if gevent.getcurrent() is self._delivering:
            self._delivering = gevent.spawn_raw(self._run) if self._due else None


_of_this_thread = monkey.get_original("_thread", "_local")()


def deliveries() -> Deliveries:
    """Return the deliveries of this native thread."""
    found: Deliveries | None = getattr(_of_this_thread, "deliveries", None)
    if found is None:
        found = _of_this_thread.deliveries = Deliveries()
    return found
