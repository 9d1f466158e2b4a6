"""The relay for any ASGI server on asyncio: Daphne, Uvicorn, Hypercorn and others.

Read beside `gevent.py`.

    daphne multichat.relay_asgi:application       uvicorn …       hypercorn …

It is a plain ASGI 3 application on the server's own event loop, and imports nothing of gevent. Each
loop that calls it has its own endpoint. With the lifespan protocol it closes its gredis client when
the server stops. Servers without lifespan (Daphne) end their loop, which closes the client as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gredis.drivers.asyncio import AsyncioCrossbar, connect
from thyme.asgi import Event, Scope
from thyme.errors import WorkerLost
from thyme.split.drivers.asyncio import AsyncioDriver
from thyme.split.endpoint import FLUSH_SECONDS
from thyme.split.flow_control import Queue, Window
from thyme.split.relay.connection import RelayedConnection
from thyme.split.relay.endpoint import RelayEndpoint
from thyme.split.relay.options import RelayOptions

__all__ = ["AsgiRelay", "Queue", "Window", "WorkerLost"]

Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class AsgiRelay:
    """An ASGI 3 application that runs each connection on a worker. Arguments: as of `Relay`."""

    def __init__(self, url: str, prefix: str = "gredis", **options: Any) -> None:
        self.url = url
        self.prefix = prefix
        self.options = RelayOptions(**options)
        self._endpoints: dict[AsyncioCrossbar, tuple[RelayEndpoint, AsyncioDriver]] = {}

    @property
    def crossbar(self) -> AsyncioCrossbar:
        """The gredis client of the running loop."""
        return connect(self.url, self.prefix)

    @property
    def endpoint(self) -> RelayEndpoint:
        """The endpoint to which workers send, for the running loop."""
        crossbar = self.crossbar
        if crossbar not in self._endpoints:
            for closed in [each for each in self._endpoints if each.closed]:
                del self._endpoints[closed]
            driver = AsyncioDriver()
            self._endpoints[crossbar] = RelayEndpoint(crossbar, driver, self.options), driver
        return self._endpoints[crossbar][0]

    async def close(self) -> None:
        """Close the gredis client of the running loop."""
        crossbar = self.crossbar
        if crossbar in self._endpoints:
            endpoint, driver = self._endpoints.pop(crossbar)
            await driver.wait_until_drained(endpoint, FLUSH_SECONDS)
            endpoint.close()
        await crossbar.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Assign the connection to a worker, and carry its events until it ends."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        endpoint = self.endpoint
        output, room = asyncio.Event(), asyncio.Event()
        connection = endpoint.new_connection(scope, notify=output.set, on_room=room.set)
        connection.receive_from_peer(await receive())
        reader = asyncio.create_task(_forward(connection, receive, room))
        try:
            endpoint.assign(connection)
            await _write(connection, send, output)
        finally:
            reader.cancel()
            endpoint.release(connection)
        if connection.error is not None:
            raise connection.error

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.shutdown":
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})


async def _write(connection: RelayedConnection, send: Send, output: asyncio.Event) -> None:
    """Send the worker's events to the peer, until there will be no more."""
    while True:
        write = connection.output.next()
        if write is None:
            if connection.closed:
                return
            output.clear()
            await output.wait()
            continue
        try:
            await send(write.event)
        except OSError:
            pass  # `_forward` tells the worker, which ends the connection in its own time
        except RuntimeError:  # Uvicorn raises this for an event after the peer has left
            if not connection.peer_gone:
                raise
        connection.output.written(write)


async def _forward(connection: RelayedConnection, receive: Receive, room: asyncio.Event) -> None:
    """Send the peer's events to the worker, until the peer is gone."""
    while not (connection.peer_gone or connection.closed):
        if connection.has_room:
            connection.receive_from_peer(await receive())
        else:
            room.clear()
            await room.wait()
