"""The desks: where all that a process hears from the other half of the split arrives. No waiting.

A process with a relay has a `RelayDesk`, a worker a `WorkerDesk` (`worker_desk.py`). A desk is one
local of the process's crossbar. It keeps the links, gives each half what is said to it, and finds
out who is dead. Both are used on gevent and on asyncio; a `Driver` says how things are done there.

How the death of a process is noticed at once, though nobody sends: by its *lifeline*, one idle
connection between each two processes that have talked. The kernel closes it when either ends,
however it ends. Then Redis is asked: if it, too, misses that process, it is dead. Where a lifeline
cannot be had (a worker on another machine, and `lifeline` left on loopback), a death is noticed
when somebody sends to the dead.

Read next: `relay.py`, the relay on gevent.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from gredis.errors import Closed, GredisError
from gredis.messages import pack, unpack
from gredis.names import Address
from thyme.application import Scope
from thyme.relay_half import Attempt, Relayed
from thyme.relay_link import AWAY_SECONDS, FULL_SECONDS, Link, LinkOver
from thyme.relay_messages import (
    BACK,
    END,
    EVENT,
    HELLO,
    LEAVE,
    NOTE,
    RELEASE,
    TAKEN,
    VERSION,
    weigh,
)
from thyme.relay_window import WINDOW, Window

log = logging.getLogger("thyme.relay")

QUEUE_LETTERS = 1_000
"""Connections that wait in one queue; above, the system is full: 503, or 1013."""

QUEUE_SECONDS = 10.0
"""Seconds that a connection waits for a worker: as long as one takes to start, or to restart."""

HELLO_SECONDS = 1.0
"""Seconds until a worker that has been given a connection, and says nothing, may be dead."""

LOOK_SECONDS = 0.25
"""Between two looks at those who wait; there is none while nobody does."""

DOUBTS = (0.02, 0.1, 0.4)
"""Seconds between questions about a process whose lifeline has ended: Redis may learn it later."""


class Driver(Protocol):
    """How a desk waits: it never does, it says what to call."""

    def soon(self, function: Callable[[], None]) -> None:
        """Call it at the end of this turn."""

    def when_done(self, reply: Any, function: Callable[[Any, Exception | None], None]) -> None:
        """Call it with the value or the error of a reply of the crossbar."""

    def listen(self, host: str, desk: Desk) -> str | None:
        """Take lifelines at an address of this host; the place to connect to."""

    def hold(self, place: str, theirs: str, desk: Desk) -> None:
        """Hold a lifeline to the process with that inbox."""

    def close(self) -> None:
        """Let go of all lifelines, and take none."""


class Desk:
    """What both desks do. `end`: the crossbar of this process or loop."""

    def __init__(self, end: Any, driver: Driver) -> None:
        self.end = end
        self.driver = driver
        self.address: Address = end.core.add(self._letter)
        self.links: dict[str, Link] = {}
        self._name = str(self.address)
        end.core.watch_losses(lambda count: self._lost_letters())

    # -- links

    def link_to(self, desk: str) -> Link:
        """The link to the desk with this address."""
        link = self.links.get(desk)
        if link is None:
            address = Address.parse(desk)
            made = Link(self._name, desk, lambda wire: self._post(made, address, wire), self.soon)
            self.links[desk] = link = made
            self.end.core.watch(link.inbox, self.gone)
        return link

    def soon(self, function: Callable[[], None]) -> None:
        """Call it at the end of this turn."""
        self.driver.soon(function)

    def _post(self, link: Link, address: Address, wire: bytes) -> None:
        try:
            reply = self.end.post(address, wire)
        except Closed:
            return
        self.driver.when_done(reply, lambda value, error: self._posted(link, value, error))

    def _posted(self, link: Link, value: Any, error: Exception | None) -> None:
        if error is None and value != b"FULL":
            link.posted()
        elif not (isinstance(error, Closed) or link.over):
            link.refused()
            self.end.later(FULL_SECONDS if error is None else AWAY_SECONDS, link.flush)

    def _letter(self, body: bytes) -> None:
        letter = unpack(body)
        if isinstance(letter, dict):
            self.old_version(letter)
            return
        _, sender, run, number, seen, entries = letter
        if run == 0:
            if sender in self.links:
                self._end_link(self.links[sender])
            return
        link = self.links.get(sender)
        fresh = link is None
        if link is None:
            link = self.link_to(sender)
        try:
            heard = link.hear(run, number, seen, entries, len(body))
        except LinkOver:
            if fresh:
                self._end_link(link)
            self.end.post(Address.parse(sender), link.farewell())
            return
        self.entries(link, heard)

    def entries(self, link: Link, heard: Sequence[list[Any]]) -> None:
        """Deal with a batch."""
        for entry in heard:
            self.entry(link, entry)

    def entry(self, link: Link, entry: list[Any]) -> None:
        """Deal with one entry of a batch."""
        raise NotImplementedError

    def old_version(self, letter: dict[str, Any]) -> None:
        """A release that speaks another version says something."""

    def _lost_letters(self) -> None:
        for link in list(self.links.values()):
            link.lost()

    @property
    def quiet(self) -> bool:
        """Whether all has been posted."""
        return all(link.quiet for link in self.links.values())

    # -- death

    def lifeline_ended(self, inbox: str, again: Callable[[], None], doubts: int = 0) -> None:
        """The lifeline of that process has ended: is it dead? If not, call `again`."""
        if self.end.closed or not self._knows(inbox):
            return

        def answered(value: Any, error: Exception | None) -> None:
            if error is not None:
                return
            if value in (b"ABSENT", b"GONE"):
                self.gone(inbox)
            elif doubts < len(DOUBTS):
                self.end.later(
                    DOUBTS[doubts], lambda: self.lifeline_ended(inbox, again, doubts + 1)
                )
            else:
                again()

        self.driver.when_done(self.end.suspect(inbox), answered)

    def _knows(self, inbox: str) -> bool:
        return any(link.inbox == inbox for link in self.links.values())

    def gone(self, inbox: str) -> None:
        """That process is dead."""
        for link in [link for link in self.links.values() if link.inbox == inbox]:
            self._end_link(link)

    def _end_link(self, link: Link) -> None:
        if link.over:
            return
        link.over = True
        self.links.pop(link.theirs, None)
        self.end.core.unwatch(link.inbox, self.gone)
        halves, link.connections = list(link.connections.values()), {}
        for half in halves:
            self.lost(half)

    def lost(self, half: Any) -> None:
        """The process that had the other half of this connection is dead."""
        raise NotImplementedError

    def close(self) -> None:
        """Say nothing more, and hear nothing."""
        self.driver.close()
        self.end.core.remove(self.address.local)
        for link in self.links.values():
            link.over = True
            self.end.core.unwatch(link.inbox, self.gone)
        self.links.clear()


@dataclass(frozen=True, slots=True)
class Queue:
    """Where connections wait for a worker: `letters` at most, each for `seconds` at most."""

    name: str
    letters: int = QUEUE_LETTERS
    seconds: float = QUEUE_SECONDS


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """What can be set of a relay.

    `http`, `websocket`: the queues for connections of that type; `choose(scope)`: another one for
    some, or None; `window`: how much of what a worker sends, and of what a peer sends, is held per
    connection; `lifeline`: the host to take lifelines at, which workers must reach; None for none.
    """

    http: Queue = Queue("http")
    websocket: Queue = Queue("websocket")
    choose: Callable[[Scope], Queue | None] = lambda scope: None
    window: Window = WINDOW
    lifeline: str | None = "127.0.0.1"

    def queue_of(self, scope: Scope) -> Queue:
        """Where a connection waits for its worker."""
        usual = self.http if scope["type"] == "http" else self.websocket
        return self.choose(scope) or usual


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
        self._queues: dict[int, Queue] = {}
        self._looking = False
        self._gathering: list[Relayed] | None = None  # those that hold something back

    def begin(self, scope: Scope) -> Relayed:
        """A connection has come. Give it the peer's first event, then `open` it."""
        half = Relayed(scope, f"{self.end.inbox}.{next(self._numbers)}", self.window)
        self._queues[id(half)] = self._queue_of(scope)
        return half

    def open(self, half: Relayed) -> None:
        """Give the connection to a worker that has room; it may wait for one."""
        number, queue = next(self._numbers), self._queues[id(half)]
        attempt = half.begin_attempt(number)
        self._attempts[number] = half, attempt
        if self._lifeline is not None and self._place is None:
            self._place = self.driver.listen(self._lifeline, self) or ""
        opening = half.opening(attempt, self._name, self._place or None)
        now = time.monotonic()
        self._pending[number] = now, now + queue.seconds
        opening["wait"] = queue.seconds
        try:
            reply = self.end.post_any(queue.name, pack(opening), queue.letters, queue.seconds)
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
                self.end.later(LOOK_SECONDS, self._look)

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
            self.end.later(LOOK_SECONDS, self._look)

    def _ask_for(self, half: Relayed, attempt: Attempt) -> None:
        def answered(value: Any, error: Exception | None) -> None:
            if value == b"GONE" and attempt.connection in self._pending:
                self._forget(attempt)
                self._worker_died(half, attempt)

        self.driver.when_done(self.end.suspect(attempt.inbox), answered)

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
        self._queues.pop(id(half), None)
        for attempt in (half.attempt, half.leaving):
            if attempt is not None:
                self._forget(attempt)

    # -- what workers say

    def entries(self, link: Link, heard: Sequence[list[Any]]) -> None:
        """Deal with a batch; what it says to one peer goes out in one piece."""
        self._gathering = [] if len(heard) > 1 else None
        super().entries(link, heard)
        gathering, self._gathering = self._gathering, None
        for half in gathering or ():
            half.let_go()

    def entry(self, link: Link, entry: list[Any]) -> None:
        """Deal with one entry of a batch."""
        connections, kind, *what = entry
        if kind == EVENT:
            event, once = what
            weight = weigh(event)
            for number in connections:
                if (found := link.connections.get(number)) is not None:
                    found[0].event(found[1], event, weight, once, self._gathering)
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
            link.say(number, RELEASE)  # who asked has given up, or found another one
            return
        del self._pending[number]
        if not link.known:
            link.known = True  # should it die before it holds its lifeline
            ask = partial(self.lifeline_ended, link.inbox, _nothing, len(DOUBTS))
            self.end.later(HELLO_SECONDS, ask)
        link.version = version
        link.connections[number] = found
        half, attempt = found
        half.hello(attempt, link, Window(*window))

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

    def lost(self, half: tuple[Relayed, Attempt]) -> None:
        """Its worker is dead."""
        relayed, attempt = half
        self._forget(attempt)
        self._worker_died(relayed, attempt)

    def _worker_died(self, half: Relayed, attempt: Attempt) -> None:
        if half.died(attempt):
            self.open(half)

    def gone(self, inbox: str) -> None:
        """That process is dead."""
        super().gone(inbox)
        for number in list(self._pending):
            half, attempt = self._attempts[number]
            if attempt.inbox == inbox:
                self._forget(attempt)
                self._worker_died(half, attempt)


def _nothing() -> None:
    """It lives."""
