"""The worker: takes connections from the crossbar and runs the application on them.

One greenlet per connection, as in the server; the application cannot tell the difference. This file
decides how a worker stops; how many connections it takes and what crosses is decided in
`split/worker/endpoint.py` and `split/worker/connection.py`. The same on plain asyncio is
`split/worker/asyncio.py`; the command line is `management/commands/runworker2.py`.

Taught in notebooks/09_relay_and_workers.ipynb.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import gevent
from gevent.event import Event as Bell

from gredis.drivers.gevent import GeventCrossbar
from gredis.errors import GredisError
from thyme.asgi import BlockingApplication, Event
from thyme.errors import Disconnected
from thyme.split.drivers.gevent import GeventDriver
from thyme.split.flow_control import WINDOW, Window
from thyme.split.wire import FAILED, STOPPED
from thyme.split.worker.connection import Taken
from thyme.split.worker.endpoint import CONNECTIONS, DRAIN_SECONDS, QUEUES, WorkerDesk

__all__ = ["CONNECTIONS", "DRAIN_SECONDS", "Worker"]

log = logging.getLogger("thyme.worker")

PART_SECONDS = 1.0
"""At the end of a drain: for applications to return, and for the last words to be posted."""


class Worker:
    """Runs `application` on connections from `queues`: at most so many at a time of each."""

    def __init__(
        self,
        application: BlockingApplication,
        crossbar: GeventCrossbar,
        *,
        queues: Mapping[str, int] = QUEUES,
        drain_seconds: float = DRAIN_SECONDS,
        window: Window = WINDOW,
    ) -> None:
        self.application = application
        self.crossbar = crossbar
        self.queues = queues
        self.drain_seconds = drain_seconds
        self._driver = GeventDriver()
        self.desk = WorkerDesk(crossbar, self._driver, begin=self._begin, window=window)
        self._greenlets: dict[gevent.Greenlet, Taken] = {}
        self._stop = Bell()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Take connections, having called `ready`, until `stop()`; then end them and depart."""
        self.crossbar.open()
        for queue, connections in self.queues.items():
            self.desk.take(queue, connections).get()
        ready()
        self._stop.wait()
        self._drain()
        self.desk.close()
        self.crossbar.close()

    def stop(self) -> None:
        """Make `run()` return; may be called by a signal's handler."""
        self._stop.set()

    def _begin(self, queue: str, half: Taken) -> None:
        greenlet = gevent.spawn(self._serve, queue, half)
        self._greenlets[greenlet] = half

    def _serve(self, queue: str, half: Taken) -> None:
        half.begun = True
        connection = Connection(half)
        try:
            self.application(half.scope, connection.receive, connection.send)
        except Disconnected:
            pass
        except Exception:
            log.exception("the application failed on %s %s", half.type, half.scope.get("path"))
            half.how = FAILED
        except gevent.GreenletExit:
            half.how = STOPPED
            raise
        finally:
            self._greenlets.pop(gevent.getcurrent(), None)
            self.desk.ended(half, queue)

    def _drain(self) -> None:
        """Take nothing new, give back what has not begun, let the rest end.

        Pages finish. WebSockets that can be resumed go on here until another worker has taken
        them. Other consumers see a disconnect as if the browser had left, so that they can say
        good-bye to their rooms; the browser is told 1012, "service restart": come again.
        """
        self.desk.stopping = True
        leaving = {queue: self.crossbar.stop_consuming(queue) for queue in self.queues}
        for queue, reply in leaving.items():
            try:
                reply.get()
            except GredisError as error:
                log.warning("could not leave queue %r: %s", queue, error)
        for greenlet, half in list(self._greenlets.items()):
            if half.begun:
                half.stop()
            else:
                del self._greenlets[greenlet]
                greenlet.kill(block=False)
                half.give_back()
        gevent.joinall(list(self._greenlets), timeout=self.drain_seconds)
        for half in self._greenlets.values():
            half.part()
        with gevent.Timeout(PART_SECONDS, False):
            gevent.joinall([each for each, half in self._greenlets.items() if half.parted])
        gevent.killall(list(self._greenlets))
        self._driver.wait_for_quiet(self.desk, PART_SECONDS)


class Connection:
    """One connection: its `receive` and `send` are the application's, and block its greenlets."""

    __slots__ = ("_came", "_half", "_room", "begin_send", "receive_now")

    def __init__(self, half: Taken) -> None:
        self._half = half
        self._came, self._room = Bell(), Bell()
        half.ring = self._ring
        self.begin_send = half.begin_send  # with these two, coroutines need not wait for greenlets
        self.receive_now = half.receive_now

    def _ring(self) -> None:
        self._came.set()
        self._room.set()

    def receive(self) -> Event:
        """The peer's next event; the disconnect, again and again, once it has gone."""
        while (event := self._half.receive_now()) is None:
            self._came.clear()
            self._came.wait()
        return event

    def send(self, event: Event) -> None:
        """Send one event to the peer; done when there is room for another one (back-pressure)."""
        if not self._half.begin_send(event):
            self.finish_send()

    def finish_send(self) -> None:
        """Return when there is room."""
        while not self._half.has_room:
            self._room.clear()
            self._room.wait()
