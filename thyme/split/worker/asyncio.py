"""The worker on plain asyncio: no gevent, nothing patched, one task per connection.

It runs an ASGI 3 application as Daphne or Uvicorn would: stock Channels and Django, with their
threads. Read beside `split/worker/gevent.py`, which does the same on gevent, in the same order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from gredis.drivers.asyncio import AsyncioCrossbar
from gredis.errors import GredisError
from thyme.asgi import ASGI3Application, Event
from thyme.split.drivers.asyncio import AsyncioDriver
from thyme.split.endpoint import FLUSH_SECONDS
from thyme.split.flow_control import DEFAULT_WINDOW, Window
from thyme.split.worker.connection import WorkerConnection
from thyme.split.worker.endpoint import (
    HANDOVER_SECONDS,
    QUEUES,
    WORKER_DRAIN_SECONDS,
    WorkerEndpoint,
)

log = logging.getLogger("thyme.worker")


class AsyncioWorker:
    """Runs `application` on connections from `queues`. Arguments: as of `gevent.Worker`."""

    def __init__(
        self,
        application: ASGI3Application,
        crossbar: AsyncioCrossbar,
        *,
        queues: Mapping[str, int] = QUEUES,
        drain_seconds: float = WORKER_DRAIN_SECONDS,
        window: Window = DEFAULT_WINDOW,
    ) -> None:
        self.application = application
        self.crossbar = crossbar
        self.queues = queues
        self.drain_seconds = drain_seconds
        self._driver = AsyncioDriver()
        self.endpoint = WorkerEndpoint(
            crossbar,
            self._driver,
            connection_type=AsyncioWorkerTransport,
            start=self._start,
            window=window,
        )
        self._tasks: dict[AsyncioWorkerTransport, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Take connections until `stop()`; then end them, and close the gredis client.

        `ready` is called when connections are being taken.
        """
        await self.crossbar.open()
        for queue, connections in self.queues.items():
            await self.endpoint.take(queue, connections)
        ready()
        await self._stop.wait()
        await self._drain()
        self.endpoint.close()
        await self.crossbar.close()

    def stop(self) -> None:
        """Make `run()` return. To be called in the loop."""
        self._stop.set()

    def _start(self, connection: AsyncioWorkerTransport) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks[connection] = task
        task.add_done_callback(lambda _: self._tasks.pop(connection, None))

    async def _serve(self, connection: AsyncioWorkerTransport) -> None:
        with self.endpoint.running(connection):
            await self.application(connection.scope, connection.receive, connection.send)

    async def _drain(self) -> None:
        """Take no new connections, give back those that are not started, and end the others."""
        for queue, reply in self.endpoint.stop_taking(list(self.queues)).items():
            try:
                await reply
            except GredisError as error:
                log.warning("cannot leave queue %r: %s", queue, error)
        for connection in self.endpoint.stop_connections():
            self._tasks[connection].cancel()
        await _wait_for(self._tasks.values(), self.drain_seconds)
        handed_over = self.endpoint.hand_over()
        await _wait_for([self._tasks[each] for each in handed_over], HANDOVER_SECONDS)
        for task in self._tasks.values():
            task.cancel()
        await _wait_for(self._tasks.values(), HANDOVER_SECONDS)
        await self._driver.wait_until_drained(self.endpoint, FLUSH_SECONDS)


async def _wait_for(tasks: Collection[asyncio.Task[Any]], seconds: float) -> None:
    if tasks:
        await asyncio.wait(list(tasks), timeout=seconds)


class AsyncioWorkerTransport(WorkerConnection):
    """The worker's end of a connection, with ASGI's `receive` and `send` as coroutines."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._event_arrived, self._room_made = asyncio.Event(), asyncio.Event()

    def notify(self) -> None:
        """Wake those that wait for an event, or for room to send."""
        self._event_arrived.set()
        self._room_made.set()

    async def receive(self) -> Event:
        """Return the next event; when the peer is gone, the disconnect, each time."""
        while (event := self.receive_nowait()) is None:
            self._event_arrived.clear()
            await self._event_arrived.wait()
        return event

    async def send(self, event: Event) -> None:
        """Send one event to the peer; return when there is room for another (back-pressure)."""
        if self.send_nowait(event):
            return
        while not self.has_room:
            self._room_made.clear()
            await self._room_made.wait()
