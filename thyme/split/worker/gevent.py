"""The worker: takes connections from gredis and runs the application on them.

One greenlet per connection, as in the server: the application cannot tell the difference. This
module waits, and decides how a worker stops. `split/worker/endpoint.py` and
`split/worker/connection.py` decide the rest. `split/worker/asyncio.py` is the same on plain
asyncio; the command line is `management/commands/runworker2.py`.

Taught in notebooks/09_relay_and_workers.ipynb.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from gevent.event import Event as GeventEvent

from gredis.drivers.gevent import GeventCrossbar
from gredis.errors import GredisError
from thyme.asgi import Application, BlockingApplication, Event, as_application
from thyme.split.drivers.gevent import GeventDriver
from thyme.split.endpoint import FLUSH_SECONDS
from thyme.split.flow_control import DEFAULT_WINDOW, Window
from thyme.split.worker.connection import WorkerConnection
from thyme.split.worker.endpoint import (
    CONNECTIONS,
    HANDOVER_SECONDS,
    QUEUES,
    WORKER_DRAIN_SECONDS,
    WorkerEndpoint,
)

__all__ = ["CONNECTIONS", "WORKER_DRAIN_SECONDS", "Worker"]

log = logging.getLogger("thyme.worker")


class Worker:
    """Runs `application` on connections from `queues`, which maps names to numbers of connections.

    `crossbar`: the gredis client to take them from. `drain_seconds`: how long requests in progress
    may take when the worker stops. `window`: how much is kept per connection.
    """

    def __init__(
        self,
        application: Application | BlockingApplication,
        crossbar: GeventCrossbar,
        *,
        queues: Mapping[str, int] = QUEUES,
        drain_seconds: float = WORKER_DRAIN_SECONDS,
        window: Window = DEFAULT_WINDOW,
    ) -> None:
        self.application = as_application(application)
        self.crossbar = crossbar
        self.queues = queues
        self.drain_seconds = drain_seconds
        self._driver = GeventDriver()
        self.endpoint = WorkerEndpoint(
            crossbar,
            self._driver,
            connection_type=WorkerTransport,
            start=self._start,
            window=window,
        )
        self._greenlets: dict[WorkerTransport, gevent.Greenlet] = {}
        self._stop = GeventEvent()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Take connections until `stop()`; then end them, and close the gredis client.

        `ready` is called when connections are being taken.
        """
        self.crossbar.open()
        for queue, connections in self.queues.items():
            self.endpoint.take(queue, connections).get()
        ready()
        self._stop.wait()
        self._drain()
        self.endpoint.close()
        self.crossbar.close()

    def stop(self) -> None:
        """Make `run()` return. May be called by a signal handler."""
        self._stop.set()

    def _start(self, connection: WorkerTransport) -> None:
        self._greenlets[connection] = gevent.spawn(self._serve, connection)

    def _serve(self, connection: WorkerTransport) -> None:
        try:
            with self.endpoint.running(connection):
                self.application.serve(connection.scope, connection)
        finally:
            del self._greenlets[connection]

    def _drain(self) -> None:
        """Take no new connections, give back those that are not started, and end the others.

        Requests are finished. WebSockets that can be resumed are served until another worker has
        taken over. All other consumers receive a disconnect as if the browser had left, so that
        they can inform their rooms; the browser gets close code 1012, "service restart".
        """
        for queue, reply in self.endpoint.stop_taking(list(self.queues)).items():
            try:
                reply.get()
            except GredisError as error:
                log.warning("cannot leave queue %r: %s", queue, error)
        for connection in self.endpoint.stop_connections():
            self._greenlets.pop(connection).kill(block=False)
        gevent.joinall(list(self._greenlets.values()), timeout=self.drain_seconds)
        handed_over = self.endpoint.hand_over()
        with gevent.Timeout(HANDOVER_SECONDS, False):
            gevent.joinall([self._greenlets[connection] for connection in handed_over])
        gevent.killall(list(self._greenlets.values()))
        self._driver.wait_until_drained(self.endpoint, FLUSH_SECONDS)


class WorkerTransport(WorkerConnection):
    """A `Transport`: the worker's end of a connection, whose waits block the calling greenlet."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._event_arrived, self._room_made = GeventEvent(), GeventEvent()

    def notify(self) -> None:
        """Wake those that wait for an event, or for room to send."""
        self._event_arrived.set()
        self._room_made.set()

    def receive(self) -> Event:
        """Return the next event; when the peer is gone, the disconnect, each time."""
        while (event := self.receive_nowait()) is None:
            self._event_arrived.clear()
            self._event_arrived.wait()
        return event

    def send(self, event: Event) -> None:
        """Send one event to the peer; return when there is room for another (back-pressure)."""
        if not self.send_nowait(event):
            self.drain()

    def drain(self) -> None:
        """Return when there is room."""
        while not self.has_room:
            self._room_made.clear()
            self._room_made.wait()
