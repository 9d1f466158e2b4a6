"""The relay for any ASGI server: Daphne, Uvicorn, Hypercorn and others.

Read beside `gevent.py`.

    daphne multichat.relay_asgi:application       uvicorn …       hypercorn …

A plain ASGI 3 application on the server's own event loop, which imports nothing of gevent. Each
loop that calls it has a desk of its own. With the lifespan protocol it leaves the crossbar when the
server stops; servers that have none (Daphne) end their loop, and that says good-bye, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gredis.drivers.asyncio import AsyncioCrossbar, connect
from thyme.asgi import Event, Scope
from thyme.errors import WorkerLost
from thyme.split.drivers.asyncio import AsyncioDriver
from thyme.split.flow_control import Queue, Window
from thyme.split.relay.connection import Relayed
from thyme.split.relay.endpoint import RelayDesk
from thyme.split.relay.options import RelayOptions

__all__ = ["AsgiRelay", "Queue", "Window", "WorkerLost"]

Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

CLOSE_SECONDS = 1.0
"""For the last words to be taken by the crossbar when the server has stopped."""


class AsgiRelay:
    """An ASGI 3 application that runs each connection on a worker; arguments as `Relay` has."""

    def __init__(self, url: str, prefix: str = "gredis", **options: Any) -> None:
        self.url = url
        self.prefix = prefix
        self.options = RelayOptions(**options)
        self._desks: dict[AsyncioCrossbar, tuple[RelayDesk, AsyncioDriver]] = {}

    @property
    def crossbar(self) -> AsyncioCrossbar:
        """The crossbar of the running loop."""
        return connect(self.url, self.prefix)

    @property
    def desk(self) -> RelayDesk:
        """Where the workers' letters to the running loop arrive."""
        crossbar = self.crossbar
        if crossbar not in self._desks:
            for ended in [end for end in self._desks if end.closed]:
                del self._desks[ended]
            driver = AsyncioDriver()
            self._desks[crossbar] = RelayDesk(crossbar, driver, self.options), driver
        return self._desks[crossbar][0]

    async def close(self) -> None:
        """Leave the crossbar of the running loop."""
        crossbar = self.crossbar
        if crossbar in self._desks:
            desk, driver = self._desks.pop(crossbar)
            await driver.wait_for_quiet(desk, CLOSE_SECONDS)
            desk.close()
        await crossbar.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the connection to a worker, and carry its events until it ends."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        desk = self.desk
        half = desk.begin(scope)
        output, room = asyncio.Event(), asyncio.Event()
        half.output.ring, half.ring_room = output.set, room.set
        half.from_peer(await receive())
        forwarder = asyncio.create_task(_forward(half, receive, room))
        try:
            desk.open(half)
            await _carry(half, send, output)
        finally:
            forwarder.cancel()
            desk.end_of(half)
        if half.error is not None:
            raise half.error

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.shutdown":
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})


async def _carry(half: Relayed, send: Send, output: asyncio.Event) -> None:
    """Carry the worker's events to the peer, until there will be no more."""
    while True:
        event = half.output.next()
        if event is None:
            if half.over:
                return
            output.clear()
            await output.wait()
            continue
        try:
            await send(event)
        except OSError:
            pass  # the forwarder tells the worker, which ends the connection in its own time
        except RuntimeError:  # Uvicorn's word for an event after the peer has left
            if not half.gone:
                raise
        half.output.sent(event)


async def _forward(half: Relayed, receive: Receive, room: asyncio.Event) -> None:
    """Carry the peer's events to the worker until the peer has gone."""
    while not (half.gone or half.over):
        if half.has_room:
            half.from_peer(await receive())
        else:
            room.clear()
            await room.wait()
