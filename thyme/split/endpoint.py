"""A process of the split, as the others see it: what it hears from them, and who of them is dead.

A process with a relay has a `RelayDesk` (`split/relay/endpoint.py`), a worker a `WorkerDesk`
(`split/worker/endpoint.py`). A desk is one local of the process's crossbar. It keeps the links and
gives each half what is said to it. Both are used on gevent and on asyncio; a `Driver` says how
things are done there. No waiting here.

How the death of a process is noticed at once, though nobody sends: by its *lifeline*, one idle
connection between each two processes that have talked. The kernel closes it when either ends,
however it ends. Then Redis is asked: if it, too, misses that process, it is dead. Where a lifeline
cannot be had (a worker on another machine, and `lifeline` left on loopback), a death is noticed
when somebody sends to the dead.

Who was taken for dead and comes back is told first of all that its links are over, before it can
be given anything new: see `split/link.py`.

Taught in notebooks/13_when_things_die.ipynb.
Read next: `split/relay/endpoint.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gredis.errors import Closed
from gredis.messages import unpack
from gredis.names import Address
from thyme.split.link import AWAY_SECONDS, FULL_SECONDS, Link, farewell

log = logging.getLogger("thyme.relay")

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
        self.address: Address = end.router.add(self._letter)
        self.links: dict[str, Link] = {}
        self.ring_quiet: Callable[[], None] = _nobody
        self._name = str(self.address)
        self._held: set[str] = set()  # inboxes that we hold lifelines to
        self.taken: set[str] = set()  # inboxes that hold lifelines to us, and are alive
        end.router.watch_losses(self._lost_letters)

    # -- links

    def link_to(self, desk: str) -> Link:
        """The link to the desk with this address."""
        link = self.links.get(desk)
        if link is None:
            address = Address.parse(desk)
            made = Link(self._name, desk, lambda wire: self._post(made, address, wire), self.soon)
            self.links[desk] = link = made
            self.end.router.watch(link.inbox, self.gone)
        return link

    def soon(self, function: Callable[[], None]) -> None:
        """Call it at the end of this turn."""
        self.driver.soon(function)

    def _post(self, link: Link, address: Address, wire: bytes) -> None:
        try:
            reply = self.end.unicast_packed(address, wire)
        except Closed:
            return
        self.driver.when_done(reply, lambda value, error: self._posted(link, value, error))

    def _posted(self, link: Link, value: Any, error: Exception | None) -> None:
        if error is None and value != b"FULL":
            link.posted()
        elif not (isinstance(error, Closed) or link.over):
            link.refused()
            self.end.call_later(FULL_SECONDS if error is None else AWAY_SECONDS, link.flush)
        if self.quiet:
            self.ring_quiet()

    def _letter(self, body: bytes) -> None:
        letter = unpack(body)
        if isinstance(letter, dict):
            self.old_version(letter)
            return
        _, sender, run, ours, number, seen, entries = letter
        link = self.links.get(sender)
        if run == 0:
            if link is not None and link.run == ours:
                self._end_link(link, alive=True)
            return
        if link is not None and link.their_run not in (0, run):
            self._end_link(link, alive=True)  # they have ended theirs, and begun another one
            link = None
        if ours and (link is None or link.run != ours):
            self._say_farewell(sender, run)
            return
        link = link or self.link_to(sender)
        self.entries(link, link.hear(run, number, seen, entries, len(body)))

    def entries(self, link: Link, heard: Sequence[list[Any]]) -> None:
        """Deal with a batch."""
        for entry in heard:
            try:
                self.entry(link, entry)
            except Exception:  # of one connection, and none of the others'
                log.exception("could not deal with what %s said: %.200r", link.theirs, entry)

    def _say_farewell(self, desk: str, run: int) -> None:
        if not self.end.closing:
            self.end.unicast_packed(Address.parse(desk), farewell(self._name, run))

    def entry(self, link: Link, entry: list[Any]) -> None:
        """Deal with one entry of a batch."""
        raise NotImplementedError

    def old_version(self, letter: dict[str, Any]) -> None:
        """A release that speaks another version says something."""

    def _lost_letters(self, count: int | None) -> None:
        for link in list(self.links.values()):
            link.lost()
        if count is None:
            self.forgotten()

    def forgotten(self) -> None:
        """Redis has come back empty."""

    @property
    def quiet(self) -> bool:
        """Whether all has been posted; `ring_quiet` is called when it may be so."""
        return all(link.quiet for link in self.links.values())

    # -- death

    def hold_lifeline(self, place: str, theirs: str) -> None:
        """Hold a lifeline to the process with that inbox, unless we do."""
        if theirs not in self._held:
            self._held.add(theirs)
            self.driver.hold(place, theirs, self)

    def lifeline_ended(self, inbox: str, again: Callable[[], None], doubts: int = 0) -> None:
        """The lifeline of that process has ended: is it dead? If not, call `again`."""
        if self.end.closing or not self._knows(inbox):
            self._held.discard(inbox)
            return

        def answered(value: Any, error: Exception | None) -> None:
            if error is not None:  # whoever can tell is away
                self.end.call_later(AWAY_SECONDS, lambda: self.lifeline_ended(inbox, again, doubts))
            elif value in (b"ABSENT", b"GONE"):
                self.gone(inbox)
            elif doubts < len(DOUBTS):
                self.end.call_later(
                    DOUBTS[doubts], lambda: self.lifeline_ended(inbox, again, doubts + 1)
                )
            else:
                again()

        self.driver.when_done(self.end.probe(inbox), answered)

    def _knows(self, inbox: str) -> bool:
        return any(link.inbox == inbox for link in self.links.values())

    def gone(self, inbox: str) -> None:
        """That process is dead, or taken for dead by all."""
        self._held.discard(inbox)
        for link in [link for link in self.links.values() if link.inbox == inbox]:
            if link.their_run:
                self._say_farewell(link.theirs, link.their_run)
            self._end_link(link)

    def _end_link(self, link: Link, alive: bool = False) -> None:
        if link.over:
            return
        link.over = True
        self.links.pop(link.theirs, None)
        self.end.router.unwatch(link.inbox, self.gone)
        halves, link.connections = list(link.connections.values()), {}
        for half in halves:
            self.lost(half, alive)
        if self.quiet:
            self.ring_quiet()

    def lost(self, half: Any, alive: bool) -> None:
        """The other half of this connection is lost; whether the process that had it lives."""
        raise NotImplementedError

    def close(self) -> None:
        """Say nothing more, and hear nothing."""
        self.driver.close()
        self.end.router.remove(self.address.local)
        for link in self.links.values():
            link.over = True
            self.end.router.unwatch(link.inbox, self.gone)
        self.links.clear()


def _nobody() -> None:
    """Nobody waits for quiet."""
