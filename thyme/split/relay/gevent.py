"""The relay: an application that hands each connection to a worker.

For the server it is an application like any other; for the application in the worker it is the
server. It knows nothing of either: ASGI events go in on one side and come out on the other.

    server ── scope, events ──► relay ── anycast to a queue ──► a worker that has room
                                  ◄────── unicast: batches ─────► (from then on)

This is the relay on gevent: two greenlets per connection wait, one for the peer and one for the
worker. The same for any ASGI server on asyncio is `split/relay/asyncio.py`. What both decide stands
in files without waiting, to be read in this order: `split/wire.py` (what crosses),
`split/flow_control.py` (how much), `split/link.py` (two processes), `split/relay/output.py` and
`split/relay/connection.py` (one connection, and how it outlives its worker), `split/endpoint.py`
(death) and `split/relay/endpoint.py` (all connections).

Taught in notebooks/09_relay_and_workers.ipynb.
Read next: `split/worker/gevent.py`.
"""

from __future__ import annotations

from typing import Any

import gevent
from gevent.event import Event as Bell

from gredis.drivers.gevent import GeventCrossbar, connect
from gredis.status import metrics
from thyme.asgi import Receive, Scope, Send
from thyme.errors import Disconnected, WorkerLost
from thyme.split.drivers.gevent import GeventDriver
from thyme.split.flow_control import Queue, Window
from thyme.split.relay.connection import Relayed
from thyme.split.relay.endpoint import RelayDesk
from thyme.split.relay.options import RelayOptions

__all__ = ["Queue", "Relay", "Window", "WorkerLost"]

CLOSE_SECONDS = 1.0
"""For the last words to be taken by the crossbar when the server has stopped."""


class Relay:
    """An esque application that runs each connection on a worker.

    `url`, `prefix`: the crossbar, as for `gredis`; the rest as `RelayOptions` has it.
    """

    def __init__(self, url: str, prefix: str = "gredis", **options: Any) -> None:
        self.url = url
        self.prefix = prefix
        self.options = RelayOptions(**options)
        self._desk: RelayDesk | None = None

    @property
    def crossbar(self) -> GeventCrossbar:
        """The crossbar of this process."""
        return connect(self.url, self.prefix)

    @property
    def desk(self) -> RelayDesk:
        """Where the workers' letters arrive."""
        crossbar = self.crossbar
        if self._desk is None or self._desk.end is not crossbar:
            self._close_desk()  # somebody else has closed its crossbar
            self._driver = GeventDriver()
            self._desk = RelayDesk(crossbar, self._driver, self.options)
        return self._desk

    def metrics(self) -> list[Any]:
        """Queue lengths and drops, for the server's /metrics."""
        return list(metrics(self.crossbar))

    def close(self) -> None:
        """Leave the crossbar; the server calls this when it has stopped."""
        self._close_desk()
        self.crossbar.close()

    def _close_desk(self) -> None:
        if self._desk is not None:
            if not self._desk.end.closed:
                self._driver.wait_for_quiet(self._desk, CLOSE_SECONDS)
            self._desk.close()
            self._desk = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the connection to a worker, and carry its events until it ends."""
        desk = self.desk
        half = desk.begin(scope)
        output, room = Bell(), Bell()
        half.output.ring, half.ring_room = output.set, room.set
        server = getattr(send, "__self__", None)
        half.output.begin = getattr(server, "begin_send", None)
        half.from_peer(receive())
        forwarder = gevent.spawn(_forward, half, receive, room)
        try:
            desk.open(half)
            _carry(half, send, output)
        finally:
            forwarder.kill()
            desk.end_of(half)
        if half.error is not None:
            raise half.error
        if half.gone and half.type == "http":
            raise Disconnected("the peer has gone, and the application has been told")


def _carry(half: Relayed, send: Send, output: Bell) -> None:
    """Carry the worker's events to the peer, until there will be no more."""
    finish = getattr(getattr(send, "__self__", None), "finish_send", None)
    while True:
        event = half.output.next()
        if event is None:
            if half.over:
                return
            output.clear()
            output.wait()
            continue
        try:
            if finish is not None and event["type"] == "finish":
                finish()
            else:
                send(event)
        except Disconnected:
            pass  # the forwarder tells the worker, which ends the connection in its own time
        half.output.sent(event)


def _forward(half: Relayed, receive: Receive, room: Bell) -> None:
    """Carry the peer's events to the worker until the peer has gone."""
    while not (half.gone or half.over):
        if half.has_room:
            half.from_peer(receive())
        else:
            room.clear()
            room.wait()
