"""The asyncio driver: one loop's end of the crossbar, where waiting is `await`.

One connection per host, whatever the loop does: received bytes go to the session as the transport
hands them over, and what has gathered is written at the end of the loop's turn: sends that happen
together travel together, and none waits for company. No time-outs, no polling: an idle process
makes no system call.

A loop has an inbox of its own, also a short-lived one (`async_to_sync` in a plain thread): when the
loop ends it cancels our task, which says good-bye, so nothing is left in the process or in Redis.

Read beside `gevent.py`, which has the same classes in the same order. Read next:
`channels/layer.py`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from gredis.client import Client, HostConnection, Urls, close_descriptor
from gredis.errors import GredisError
from gredis.location import KEEPALIVE, Location
from gredis.sentinel import decode_answer, encode_query
from gredis.session import Session, pauses

log = logging.getLogger("gredis")

READ_BYTES = 64 * 1024
"""Bytes of a sentinel's answer."""

CONNECT_SECONDS = 5.0
"""For connecting and for the handshake of TLS."""

DEREGISTER_SECONDS = 1.0
"""How long a loop that ends waits for the last reply."""


class AsyncioHostConnection(HostConnection):
    """One connection to one host."""

    def __init__(self, client: Client, location: Location, index: int) -> None:
        super().__init__(client, location, index)
        self._connection: HostProtocol | None = None
        self._flushing = False
        self.task: asyncio.Task[None] | None = None
        self.ended = False

    def start(self) -> None:
        """Connect, now and whenever the connection is lost."""
        self._loop = asyncio.get_running_loop()
        self.task = self._loop.create_task(self._run())

    def write(self) -> None:
        """Have what the session has to send written at the end of this turn of the loop."""
        if not self._flushing and self._connection is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def stop(self) -> None:
        """Close the connection and make no other."""
        if self.task is not None and not self._loop.is_closed():
            self.task.cancel()

    def close_inherited(self) -> None:
        """In a forked child: let go of the connection, and say nothing."""
        if self._connection is not None:
            close_descriptor(self._connection.transport.get_extra_info("socket").fileno())

    async def _run(self) -> None:
        """Connect, wait until the connection is lost, and again."""
        pause = pauses()
        try:
            while True:
                await asyncio.sleep(next(pause))
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        self._connection = await _connect(self.location, self.session)
                    self.write()
                    await asyncio.wait([self._connection.over])
                    if self.session.ready:
                        pause = pauses()
                    self._explain(self._connection.over.result())
                except OSError as error:
                    self.lost(error)
                except GredisError as error:
                    self.lost(error)
                    self.refused(error)
                except Exception as error:  # a mistake of ours must not end all communication
                    self.lost(error)
                    log.exception("%s: could not connect", self.location.display_url)
                finally:
                    await self._disconnect()
        finally:
            self.ended = True
            cast(AsyncioCrossbar, self.client).connection_ended()

    def _explain(self, error: Exception | None) -> None:
        self.lost(error or "closed by the other side")
        if isinstance(error, GredisError):
            self.refused(error)

    async def _disconnect(self) -> None:
        connection = self._connection
        if connection is None or self._loop.is_closed():
            return
        if self.session.ready and not self.client.closed and not connection.over.done():
            self.client.closing = True  # the loop ends
            reply = self.session.call("deregister")
            self._flush()
            await asyncio.wait([reply], timeout=DEREGISTER_SECONDS)
        self._connection = None
        self.session.disconnected()
        connection.transport.abort()
        await asyncio.wait([connection.over])

    def _flush(self) -> None:
        """Write what has gathered."""
        self._flushing = False
        while self._connection is not None and (gathered := self.session.to_send()):
            self._connection.transport.write(gathered)


class HostProtocol(asyncio.Protocol):
    """One connection, until it is over."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._error: Exception | None = None
        self.over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: greet."""
        self.transport = cast(asyncio.Transport, transport)
        self._session.connected()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._error is not None:
            return
        try:
            self._session.receive(data)
        except (GredisError, OSError) as error:
            self._error = error
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self.over.set_result(self._error or exc)


async def _connect(location: Location, session: Session) -> HostProtocol:
    loop, connection = asyncio.get_running_loop(), HostProtocol(session)
    if location.scheme == "sentinel":
        location = location.at(*await _ask_sentinels(location))
    if location.path:
        await loop.create_unix_connection(lambda: connection, location.path)
        return connection
    context = location.context(ssl.SSLContext)
    name = location.host if context is not None else None
    transport, _ = await loop.create_connection(
        lambda: connection, location.host, location.port, ssl=context, server_hostname=name
    )
    _prepare(transport.get_extra_info("socket"))
    return connection


def _prepare(connected: Any) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _ask_sentinels(location: Location) -> tuple[str, int]:
    """Where the master is, as the first sentinel says that knows it."""
    problem: Exception = ConnectionError("no sentinel is configured")
    for host, port in location.sentinels:
        try:
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(encode_query(location.master))
                    return decode_answer(await reader.read(READ_BYTES), location.master)
                finally:
                    writer.close()
                    await writer.wait_closed()
        except OSError as error:
            problem = error
    raise ConnectionError(f"no sentinel knows {location.master!r}: {problem}") from problem


class AsyncioCrossbar(Client):
    """One loop's end of the crossbar, see `Client`. All methods belong to the loop that used it
    first.

    `on_close` is called when it is closed, by `close()` or by the end of its loop.
    """

    connection_type = AsyncioHostConnection

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_close: Callable[[], None] = lambda: None

    @staticmethod
    def new_reply() -> asyncio.Future[Any]:
        """What a caller awaits."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(_seen)
        return reply

    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        """Call `function` then, in the loop."""
        return asyncio.get_running_loop().call_later(seconds, function)

    def cancel_timer(self, timer: Any) -> None:
        """Do not call it after all."""
        timer.cancel()

    # -- opening and closing

    async def open(self) -> None:
        """Connect and announce; `Unreachable` when there is no answer within the timeout."""
        for reply in self.ping():
            await reply

    async def close(self) -> None:
        """Leave as if this process had never been there, and end all waiting."""
        if self.closed:
            return
        replies = self._deregister()
        if replies:
            await asyncio.wait(replies, timeout=self.timeout)
        self._end()
        tasks = [
            each.task
            for each in self.connections
            if isinstance(each, AsyncioHostConnection) and each.task
        ]
        if tasks:
            await asyncio.wait(tasks)

    def connection_ended(self) -> None:
        """A line has ended; with the last one, because of the loop's end, this ends."""
        if all(each.ended for each in self.connections if isinstance(each, AsyncioHostConnection)):
            self._end()

    def _end(self) -> None:
        if not self.closed:
            self.abort()
            self.on_close()

    # -- for coroutines

    async def await_reply(self, reply: asyncio.Future[Any] | None) -> Any:
        """The reply."""
        return None if reply is None else await reply


def _seen(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled():
        reply.exception()  # who sent without waiting does not want to hear


_crossbars: dict[tuple[Any, ...], AsyncioCrossbar] = {}


def connect(url: Urls, prefix: str = "gredis") -> AsyncioCrossbar:
    """The crossbar of the running loop for `url` and `prefix`, made when first asked for."""
    loop = asyncio.get_running_loop()
    key = (loop, url if isinstance(url, str) else tuple(url), prefix)
    found = _crossbars.get(key)
    if found is None or found.closed:
        _forget_ended_loops()
        found = _crossbars[key] = AsyncioCrossbar(url, prefix)
        found.on_close = lambda: (_crossbars.pop(key, None), None)[1]
    return found


def _forget_ended_loops() -> None:
    """Of loops that ended without cancelling their tasks; other threads may do the same now."""
    for key in list(_crossbars):
        if key[0].is_closed() and (dead := _crossbars.pop(key, None)) is not None:
            dead.closing = dead.closed = True
