"""The worker's desk: connections come from queues, and what is said on them from their relays.

How many a worker takes is said when it takes from a queue; how it stops is here, too. What runs the
application, and waits for it, is `split/worker/gevent.py` (gevent) or `split/worker/asyncio.py`.

Read next: `split/worker/gevent.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from gredis.messages import pack, unpack
from gredis.names import Address
from thyme.split.endpoint import Desk, Driver
from thyme.split.flow_control import Window
from thyme.split.link import Link
from thyme.split.wire import EVENT, FAILED, HELLO, OLDEST, RELEASE, TAKEN, VERSION, spoken
from thyme.split.worker.connection import Taken

log = logging.getLogger("thyme.worker")

CONNECTIONS = 1_000
"""Connections of one queue that a worker runs at the same time; more wait for another worker."""

QUEUES = {"http": CONNECTIONS, "websocket": CONNECTIONS}
"""What a worker takes unless told otherwise."""

DRAIN_SECONDS = 5.0
"""Seconds that requests in progress have to finish when the worker is told to stop."""

TELL_SECONDS = 0.005
"""Resumable WebSockets: an event was dealt with, and nothing is sent that could say so along with
it. Longer than a line takes to come back from its room, shorter than anybody types."""


class WorkerDesk(Desk):
    """The desk of a worker. `begin(queue, half)` starts the application on a connection."""

    def __init__(
        self,
        end: Any,
        driver: Driver,
        *,
        begin: Callable[[str, Taken], None],
        window: Window,
    ) -> None:
        super().__init__(end, driver)
        self.window = window
        self.stopping = False
        self._begin = begin
        self._untold: dict[Taken, None] = {}
        self._telling = False

    def take(self, queue: str, room: int) -> Any:
        """Take connections from a queue, at most so many at the same time; the reply."""
        return self.end.consume(queue, lambda body: self._opening(queue, body), room)

    def _opening(self, queue: str, body: bytes) -> None:
        opening = unpack(body)
        sender = opening["from"]
        version = spoken(opening.get("oldest", opening["version"]), opening["version"])
        if version is None:
            self._refuse(queue, opening)
            return
        waited = time.monotonic() - self.end.router.sent_at / 1000
        if waited > opening["wait"] and not opening["resumes"]:
            self._give_back(queue)  # it has been answered for already
            return
        link = self._link(sender, opening.get("lifeline"))
        half = Taken(link, opening, self.window, self._soon_tell)
        if self.stopping:
            self._hello(half, version)
            half.give_back()
            return
        link.connections[half.connection] = half
        self._begin(queue, half)
        self._hello(half, version)  # after `begin`: an application that is quick travels along

    def _hello(self, half: Taken, version: int) -> None:
        window = [self.window.events, self.window.bytes]
        half.link.say(half.connection, HELLO, version, window, self.end.inbox)

    def _refuse(self, queue: str, opening: dict[str, Any]) -> None:
        log.error(
            "the server's relay speaks version %s, this worker %d to %d: "
            "run the same release of thyme on both",
            opening["version"],
            OLDEST,
            VERSION,
        )
        refusal: dict[str, Any] = {
            "from": str(self.address),
            "connection": opening.get("connection"),
            "events": [],
            "end": FAILED,
        }
        self.end.unicast_packed(Address.parse(opening["from"]), pack(refusal))
        self._give_back(queue)

    def _link(self, sender: str, lifeline: str | None) -> Link:
        link = self.link_to(sender)
        if lifeline is not None:
            self.hold_lifeline(lifeline, link.inbox)
        return link

    def entry(self, link: Link, entry: list[Any]) -> None:
        """Deal with one entry of a batch."""
        connections, kind, *what = entry
        half: Taken | None = link.connections.get(connections[0])
        if half is None:
            return
        if kind == EVENT:
            half.event(what[0])
        elif kind == TAKEN:
            half.taken(*what)
        elif kind == RELEASE:
            half.release(*what)

    def ended(self, half: Taken, queue: str) -> None:
        """The application has ended: there is room for another one, unless this worker stops."""
        self._untold.pop(half, None)
        if half.link.connections.get(half.connection) is half:
            del half.link.connections[half.connection]
        half.end()
        self._give_back(queue)

    def _give_back(self, queue: str) -> None:
        if not self.stopping:  # it would be entered again, and be given more
            self.end.task_done(queue)

    def lost(self, half: Taken, alive: bool) -> None:
        """Its server is dead; one that is alive has taken us for dead, and gone on elsewhere."""
        half.release(taken_over=alive)

    def _soon_tell(self, half: Taken) -> None:
        self._untold[half] = None
        if not self._telling:
            self._telling = True
            self.end.call_later(TELL_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling = False
        untold, self._untold = self._untold, {}
        for half in untold:
            half.tell()
