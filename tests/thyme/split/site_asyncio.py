"""A relay and workers on plain asyncio, over a real Redis, in one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from gredis.drivers.asyncio import AsyncioCrossbar
from thyme.split.relay.asyncio import AsgiRelay
from thyme.split.worker.asyncio import AsyncioWorker

DEADLINE = 60


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run the body of a test in a loop of its own."""

    async def limited() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    asyncio.run(limited())


class AsyncPeer:
    """Calls an ASGI 3 application with events of the test, and keeps what it sends."""

    def __init__(self, application: Any, scope: dict[str, Any], *events: Any) -> None:
        self.incoming: asyncio.Queue = asyncio.Queue()
        self.sent: asyncio.Queue = asyncio.Queue()
        for event in events:
            self.incoming.put_nowait(event)
        self.task = asyncio.create_task(application(dict(scope), self.incoming.get, self.sent.put))

    def say(self, text: str) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def end(self) -> list[Any]:
        """Wait for the application; return what it has sent and the test has not read."""
        await self.task
        return [self.sent.get_nowait() for _ in range(self.sent.qsize())]


@asynccontextmanager
async def relaying(url: str, **options: Any) -> AsyncIterator[AsgiRelay]:
    """Run a relay."""
    relay = AsgiRelay(url, **options)
    try:
        yield relay
    finally:
        await relay.close()


@asynccontextmanager
async def working(url: str, application: Any, **options: Any) -> AsyncIterator[AsyncioWorker]:
    """Run a worker, and stop it at the end unless it has been stopped."""
    worker = AsyncioWorker(application, AsyncioCrossbar(url), **{"drain_seconds": 0.2} | options)
    ready = asyncio.Event()
    running = asyncio.create_task(worker.run(ready.set))
    await ready.wait()
    try:
        yield worker
    finally:
        worker.stop()
        await running
