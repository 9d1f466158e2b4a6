"""The worker: takes connections from the crossbar and runs the application on them.

One greenlet per connection, as in the server; the application cannot tell the difference. This file
decides how many connections a worker takes and how it stops. What crosses, and the other half of
the split, is in `relay.py`; the command line is `management/commands/runworker2.py`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event as Signal

from gredis.drivers.gevent import GeventCrossbar
from gredis.errors import Full, Gone
from gredis.messages import unpack
from gredis.names import Address
from thyme.application import Disconnected, EsqueApplication, Event, Scope
from thyme.relay import DISCONNECTS, VERSION

log = logging.getLogger("thyme.worker")

CONNECTIONS = 1_000
"""Connections of one queue that a worker runs at the same time; more wait for another worker."""

DRAIN_SECONDS = 5.0
"""Seconds that requests in progress have to finish when the worker is told to stop."""

FULL_SECONDS = 0.01
"""Pause before a message is sent again to a server whose inbox is full."""


class Worker:
    """Runs `application` on connections from `queues`, at most `connections` of each."""

    def __init__(
        self,
        application: EsqueApplication,
        crossbar: GeventCrossbar,
        *,
        queues: tuple[str, ...] = ("http", "websocket"),
        connections: int = CONNECTIONS,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self.application = application
        self.crossbar = crossbar
        self.queues = queues
        self.connections = connections
        self.drain_seconds = drain_seconds
        self._greenlets: dict[gevent.Greenlet, _Connection] = {}
        self._stop = Signal()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Take connections, having called `ready`, until `stop()`; then end them and depart."""
        self.crossbar.open()
        for queue in self.queues:
            self.crossbar.take(queue, self._taker(queue), self.connections).get()
        ready()
        self._stop.wait()
        self._drain()
        self.crossbar.close()

    def stop(self) -> None:
        """Make `run()` return; may be called by a signal's handler."""
        self._stop.set()

    def _taker(self, queue: str) -> Callable[[bytes], None]:
        def take(body: bytes) -> None:
            connection = _Connection(self.crossbar, unpack(body))
            greenlet = gevent.spawn(self._serve, queue, connection)
            self._greenlets[greenlet] = connection

        return take

    def _serve(self, queue: str, connection: _Connection) -> None:
        try:
            connection.run(self.application)
        finally:
            self._greenlets.pop(gevent.getcurrent(), None)
            self.crossbar.give_back(queue)

    def _drain(self) -> None:
        """Take nothing new, let what is there end: WebSockets by a disconnect, pages by finishing.

        A consumer sees the disconnect as it would see the browser leave, so that it can say
        good-bye to its rooms; the browser is told 1012, "service restart": come again.
        """
        for queue in self.queues:
            self.crossbar.untake(queue).get()
        for connection in list(self._greenlets.values()):
            if connection.type == "websocket":
                connection.stop()
        gevent.joinall(list(self._greenlets), timeout=self.drain_seconds)
        gevent.killall(list(self._greenlets))


class _Connection:
    """One connection, on the worker's side: its `receive` and `send` are the application's."""

    def __init__(self, crossbar: GeventCrossbar, opening: dict[str, Any]) -> None:
        self.crossbar = crossbar
        self.relay = Address.parse(opening["from"])
        self.version: int = opening["version"]
        self.scope = _restored(opening["scope"])
        self.type: str = self.scope["type"]
        self.received: deque[Event] = deque(opening["events"])
        self.held: list[Event] = []
        self.mailbox = crossbar.mailbox()
        self.mailbox.watch(self.relay.inbox)
        self.disconnect: Event | None = None
        self.end = "returned"

    def run(self, application: EsqueApplication) -> None:
        """Run the application to its end, and tell the relay how it ended."""
        try:
            if self.version != VERSION:
                raise ValueError(
                    f"the server's relay speaks version {self.version}, this worker {VERSION}: "
                    "run the same release of thyme on both"
                )
            self._say([])  # the relay learns our address
            application(self.scope, self.receive, self.send)
        except Disconnected:
            pass
        except Exception:
            log.exception("the application failed on %s %s", self.type, self.scope.get("path"))
            self.end = "failed"
        except gevent.GreenletExit:
            self.end = "stopped"
            raise
        finally:
            self.mailbox.close()
            self._say(self.held, end=self.end)

    def stop(self) -> None:
        """Let the application receive a disconnect: its worker ends."""
        self.end = "stopped"
        self.disconnect = {"type": "websocket.disconnect", "code": 1012}
        self.mailbox.interrupt()

    def receive(self) -> Event:
        """The peer's next event; the disconnect, again and again, once it has gone."""
        while not self.received:
            if self.disconnect is not None:
                return self.disconnect
            try:
                self.received.extend(self.mailbox.get()["events"])
            except Gone:
                self.disconnect = self.disconnect or DISCONNECTS[self.type]
        return self.received.popleft()

    def send(self, event: Event) -> None:
        """Send one event to the peer; done when the crossbar has taken it.

        The start of a response waits for its first body: they travel together, as they would in a
        server (ASGI: "the server may not send until the first body").
        """
        if self.disconnect is not None:
            raise Disconnected("this connection has ended")
        self.held.append(event)
        if event["type"] == "http.response.start":
            return
        events, self.held = self.held, []
        self._say(events)

    def _say(self, events: list[Event], **more: str) -> None:
        message = {"from": str(self.mailbox.address), "events": events, **more}
        while True:
            try:
                self.crossbar.unicast(self.relay, message)
                return
            except Full:  # the server does not keep up: hold the application back
                gevent.sleep(FULL_SECONDS)


def _restored(scope: Scope) -> Scope:
    """A scope as the server had it: what MessagePack turned into lists is pairs again."""
    scope["headers"] = [(name, value) for name, value in scope["headers"]]
    for key in ("client", "server"):
        if scope.get(key) is not None:
            scope[key] = tuple(scope[key])
    return scope
