"""One process's end of the split: its links, and how it notices that another process has died.

A process with a relay has a `RelayEndpoint` (`split/relay/endpoint.py`), a worker has a
`WorkerEndpoint` (`split/worker/endpoint.py`). An endpoint has an address in gredis. It keeps one
link to each endpoint that it exchanges messages with, and passes entries on to the connections that
they are for. It does no I/O: a `Driver` schedules its calls, for gevent or for asyncio.

*How a death is noticed.* Two processes that have exchanged messages hold one idle connection, a
lifeline, which the kernel closes when either of them ends (`split/lifeline.py`). Then Redis is
asked. If that process is missing there as well, it is dead. If not, the lifeline is opened again.
Where no lifeline is possible (a worker on another machine, and `lifeline` is left on loopback), a
death is noticed at the next send.

*When the verdict was wrong.* A process may be cut off from Redis for longer than the others wait,
and come back. It is told first of all that its links are closed, before it is given any new work:
see "Epochs" in `split/link.py`.

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
from thyme.split.link import AWAY_SECONDS, FULL_SECONDS, Link, closing_message

log = logging.getLogger("thyme.relay")

FLUSH_SECONDS = 1.0
"""Seconds that the last messages have to be posted when a server or a worker has stopped."""

DOUBTS = (0.02, 0.1, 0.4)
"""Seconds between questions to Redis about a process whose lifeline has ended. Redis may notice the
end of its own connection to that process a little later."""


class Driver(Protocol):
    """The interface that an endpoint needs of its event loop. One per endpoint; no method waits."""

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call `function` at the end of this round of the event loop."""

    def when_done(self, reply: Any, function: Callable[[Any, Exception | None], None]) -> None:
        """Call `function` with the value or the error of a reply of gredis."""

    def on_drained(self) -> None:
        """Wake a task that waits until the endpoint has posted everything."""

    def accept_lifelines(self, host: str, endpoint: Endpoint) -> str | None:
        """Accept lifelines at a free port of `host`; return "host:port", or None if impossible."""

    def hold_lifeline(self, place: str, inbox: str, endpoint: Endpoint) -> None:
        """Open a lifeline to the process `inbox`, which accepts them at `place`."""

    def close(self) -> None:
        """Close all lifelines, and accept no more."""


class Endpoint:
    """The part that both endpoints share. `crossbar`: the gredis client of this process or loop."""

    def __init__(self, crossbar: Any, driver: Driver) -> None:
        self.crossbar = crossbar
        self.driver = driver
        self.address: Address = crossbar.router.add(self._receive)
        self.links: dict[str, Link] = {}
        self.lifelines_in: set[str] = set()  # inboxes of processes that hold lifelines to us
        self._lifelines_out: set[str] = set()  # inboxes of processes that we hold lifelines to
        self._name = str(self.address)
        self._warned = False
        crossbar.router.watch_losses(self._on_loss)

    @property
    def inbox(self) -> str:
        """The inbox of this process."""
        inbox: str = self.crossbar.inbox
        return inbox

    # -- links

    def link_to(self, remote: str) -> Link:
        """Return the link to the endpoint with this address; open one if there is none."""
        link = self.links.get(remote)
        if link is None:
            address = Address.parse(remote)
            opened = Link(
                self._name,
                remote,
                post=lambda wire: self._post(opened, address, wire),
                call_soon=self.driver.call_soon,
            )
            self.links[remote] = link = opened
            self.crossbar.router.watch(link.remote_inbox, self.on_process_gone)
        return link

    def _post(self, link: Link, address: Address, wire: bytes) -> None:
        try:
            reply = self.crossbar.unicast_packed(address, wire)
        except Closed:
            return
        self.driver.when_done(reply, lambda value, error: self._on_posted(link, value, error))

    def _on_posted(self, link: Link, value: Any, error: Exception | None) -> None:
        if error is None and value != b"FULL":
            link.on_posted()
        elif not (isinstance(error, Closed) or link.closed):
            link.on_refused()
            self.crossbar.call_later(FULL_SECONDS if error is None else AWAY_SECONDS, link.flush)
        if self.drained:
            self.driver.on_drained()

    def _receive(self, body: bytes) -> None:
        """Process a message for this endpoint."""
        message = unpack(body)
        if isinstance(message, dict):
            self.handle_unsupported_version(message)
            return
        _, sender, remote_epoch, epoch, number, seen, entries = message
        link = self.links.get(sender)
        if remote_epoch == 0:  # a closing message
            if link is not None and link.epoch == epoch:
                self._close_link(link, process_alive=True)
            return
        if link is not None and link.remote_epoch not in (0, remote_epoch):
            # They have closed their end of this link, and opened another one.
            self._close_link(link, process_alive=True)
            link = None
        if epoch and (link is None or link.epoch != epoch):
            self._send_closing_message(sender, remote_epoch)
            return
        link = link or self.link_to(sender)
        self.handle_entries(link, link.receive(remote_epoch, number, seen, entries, len(body)))

    def handle_entries(self, link: Link, entries: Sequence[list[Any]]) -> None:
        """Handle the entries of a batch. An error in one of them does not affect the others."""
        for entry in entries:
            try:
                self.handle_entry(link, entry)
            except Exception:
                log.exception("cannot handle an entry from %s: %.200r", link.remote, entry)

    def _send_closing_message(self, remote: str, epoch: int) -> None:
        if not self.crossbar.closing:
            self.crossbar.unicast_packed(Address.parse(remote), closing_message(self._name, epoch))

    def handle_entry(self, link: Link, entry: list[Any]) -> None:
        """Handle one entry of a batch."""
        raise NotImplementedError

    def handle_unsupported_version(self, message: dict[str, Any]) -> None:
        """Handle a message in an unsupported protocol version."""

    def _on_loss(self, count: int | None) -> None:
        """Messages for this process were lost: `count` of them, or all that Redis had (None)."""
        for link in list(self.links.values()):
            link.recover()
        if count is None:
            self.on_redis_emptied()

    def on_redis_emptied(self) -> None:
        """Redis is back, without its data: what waited in queues is lost."""

    @property
    def drained(self) -> bool:
        """Return whether everything is posted. When it may be, `Driver.on_drained` is called."""
        return all(link.drained for link in self.links.values())

    # -- lifelines

    def hold_lifeline(self, place: str, inbox: str) -> None:
        """Hold a lifeline to the process `inbox`, unless we do already."""
        if inbox not in self._lifelines_out:
            self._lifelines_out.add(inbox)
            self.driver.hold_lifeline(place, inbox, self)

    def lifeline_failed(self, place: str, inbox: str, error: Exception) -> None:
        """A lifeline could not be opened. Perhaps its process has died in the meantime."""
        self.lifeline_ended(inbox, lambda: self._warn(place, error))

    def _warn(self, place: str, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "no lifeline to %s (%s): the death of that process will be noticed only at the "
                "next send; see Relay(lifeline=…)",
                place,
                error,
            )

    def lifeline_accepted(self, inbox: str) -> None:
        """The process `inbox` holds a lifeline to us."""
        self.lifelines_in.add(inbox)

    def accepted_lifeline_ended(self, inbox: str) -> None:
        """That lifeline has ended. If the process is alive, it will open another one."""
        self.lifelines_in.discard(inbox)
        self.lifeline_ended(inbox, _do_nothing)

    def lifeline_ended(self, inbox: str, if_alive: Callable[[], None], doubts: int = 0) -> None:
        """Ask Redis whether the process `inbox` is dead; call `if_alive` if it is not."""
        if self.crossbar.closing or not self._is_linked(inbox):
            self._lifelines_out.discard(inbox)
            return

        def answered(value: Any, error: Exception | None) -> None:
            if error is not None:  # Redis is away: ask again when it may be back
                self.crossbar.call_later(
                    AWAY_SECONDS, lambda: self.lifeline_ended(inbox, if_alive, doubts)
                )
            elif value in (b"ABSENT", b"GONE"):
                self.on_process_gone(inbox)
            elif doubts < len(DOUBTS):
                self.crossbar.call_later(
                    DOUBTS[doubts], lambda: self.lifeline_ended(inbox, if_alive, doubts + 1)
                )
            else:
                if_alive()

        self.driver.when_done(self.crossbar.probe(inbox), answered)

    def _is_linked(self, inbox: str) -> bool:
        return any(link.remote_inbox == inbox for link in self.links.values())

    # -- the end

    def on_process_gone(self, inbox: str) -> None:
        """The process `inbox` is dead, or all others have agreed that it is."""
        self._lifelines_out.discard(inbox)
        for link in [link for link in self.links.values() if link.remote_inbox == inbox]:
            if link.remote_epoch:
                self._send_closing_message(link.remote, link.remote_epoch)
            self._close_link(link, process_alive=False)

    def _close_link(self, link: Link, process_alive: bool) -> None:
        if link.closed:
            return
        link.closed = True
        self.links.pop(link.remote, None)
        self.crossbar.router.unwatch(link.remote_inbox, self.on_process_gone)
        lost, link.connections = list(link.connections.values()), {}
        for connection in lost:
            self.on_connection_lost(connection, process_alive)
        if self.drained:
            self.driver.on_drained()

    def on_connection_lost(self, connection: Any, process_alive: bool) -> None:
        """The other end of a connection is lost; its process may be alive."""
        raise NotImplementedError

    def close(self) -> None:
        """Send and receive nothing more."""
        self.driver.close()
        self.crossbar.router.remove(self.address.local)
        for link in self.links.values():
            link.closed = True
            self.crossbar.router.unwatch(link.remote_inbox, self.on_process_gone)
        self.links.clear()


def _do_nothing() -> None:
    """No-op: the process is alive."""
