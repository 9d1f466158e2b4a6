"""The worker on plain asyncio: no gevent, nothing patched, one task per connection.

It runs an ASGI 3 application as Daphne or Uvicorn would: stock Channels and Django, with their
threads. Beside `split/worker/gevent.py`, which does the same on gevent, in the same order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from gredis.drivers.asyncio import AsyncioCrossbar
from gredis.errors import GredisError
from thyme.asgi import ASGI3Application, Event
from thyme.errors import Disconnected
from thyme.split.drivers.asyncio import AsyncioDriver
from thyme.split.flow_control import WINDOW, Window
from thyme.split.wire import FAILED, STOPPED
from thyme.split.worker.connection import Taken
from thyme.split.worker.endpoint import DRAIN_SECONDS, QUEUES, WorkerDesk

log = logging.getLogger("thyme.worker")

PART_SECONDS = 1.0
"""At the end of a drain: for applications to return, and for the last words to be posted."""


class AsyncioWorker:
    """Runs `application` on connections from `queues`: at most so many at a time of each."""

    def __init__(
        self,
        application: ASGI3Application,
        crossbar: AsyncioCrossbar,
        *,
        queues: Mapping[str, int] = QUEUES,
        drain_seconds: float = DRAIN_SECONDS,
        window: Window = WINDOW,
    ) -> None:
        self.application = application
        self.crossbar = crossbar
        self.queues = queues
        self.drain_seconds = drain_seconds
        self._driver = AsyncioDriver()
        self.desk = WorkerDesk(crossbar, self._driver, begin=self._begin, window=window)
        self._tasks: dict[asyncio.Task[None], Taken] = {}
        self._stop = asyncio.Event()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Take connections, having called `ready`, until `stop()`; then end them and depart."""
        await self.crossbar.open()
        for queue, connections in self.queues.items():
            await self.desk.take(queue, connections)
        ready()
        await self._stop.wait()
        await self._drain()
        self.desk.close()
        await self.crossbar.close()

    def stop(self) -> None:
        """Make `run()` return; to be called in the loop."""
        self._stop.set()

    def _begin(self, queue: str, half: Taken) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(queue, half))
        self._tasks[task] = half
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, queue: str, half: Taken) -> None:
        half.begun = True
        connection = Connection(half)
        try:
            await self.application(half.scope, connection.receive, connection.send)
        except Disconnected:
            pass
        except Exception:
            log.exception("the application failed on %s %s", half.type, half.scope.get("path"))
            half.how = FAILED
        except asyncio.CancelledError:
            half.how = STOPPED
            raise
        finally:
            self.desk.ended(half, queue)

    async def _drain(self) -> None:
        """Take nothing new, give back what has not begun, let the rest end; as on gevent."""
        self.desk.stopping = True
        leaving = {queue: self.crossbar.stop_consuming(queue) for queue in self.queues}
        for queue, reply in leaving.items():
            try:
                await reply
            except GredisError as error:
                log.warning("could not leave queue %r: %s", queue, error)
        for task, half in list(self._tasks.items()):
            if half.begun:
                half.stop()
            else:
                task.cancel()
                half.give_back()
        await _join(self._tasks, self.drain_seconds)
        for half in self._tasks.values():
            half.part()
        await _join([task for task, half in self._tasks.items() if half.parted], PART_SECONDS)
        for task in self._tasks:
            task.cancel()
        await _join(self._tasks, PART_SECONDS)
        await self._driver.wait_for_quiet(self.desk, PART_SECONDS)


async def _join(tasks: Any, seconds: float) -> None:
    if tasks:
        await asyncio.wait(list(tasks), timeout=seconds)


class Connection:
    """One connection: its `receive` and `send` are the application's."""

    __slots__ = ("_came", "_half", "_room")

    def __init__(self, half: Taken) -> None:
        self._half = half
        self._came, self._room = asyncio.Event(), asyncio.Event()
        half.ring = self._ring

    def _ring(self) -> None:
        self._came.set()
        self._room.set()

    async def receive(self) -> Event:
        """The peer's next event; the disconnect, again and again, once it has gone."""
        while (event := self._half.receive_now()) is None:
            self._came.clear()
            await self._came.wait()
        return event

    async def send(self, event: Event) -> None:
        """Send one event to the peer; done when there is room for another one (back-pressure)."""
        if self._half.begin_send(event):
            return
        while not self._half.has_room:
            self._room.clear()
            await self._room.wait()
