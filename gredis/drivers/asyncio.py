"""The asyncio driver: a loop's crossbar, where waiting is `await`.

One connection per host, whatever the loop does. Its protocol passes received bytes to the session.
Everything that was queued during one iteration of the loop is written at its end, in one piece:
calls made together travel together, and none waits for others to come. There are no time-outs and
no polling: an idle process makes no system call.

Each loop has an inbox of its own, even a short-lived one (`async_to_sync` in a plain thread). When
such a loop ends, it cancels our task, which deregisters, so nothing is left in the process or in
Redis.

Read beside `gevent.py`, which has the same classes in the same order. Read next:
`channels/layer.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any, cast

from gredis.client import Client, HostConnection, Urls, close_descriptor, raise_if_full
from gredis.drivers.sockets import enable_keepalive, tls_context
from gredis.errors import GredisError
from gredis.location import Location
from gredis.mailbox import Mailbox
from gredis.names import Address
from gredis.sentinel import decode_answer, encode_query
from gredis.session import Session, pauses

READ_BYTES = 64 * 1024
"""Bytes of a sentinel's answer."""

CONNECT_SECONDS = 5.0
"""Limit for connecting, including the TLS handshake."""

DEREGISTER_SECONDS = 1.0
"""A loop that ends waits this long to deregister."""


class AsyncioHostConnection(HostConnection):
    """The connection to one host."""

    client: AsyncioCrossbar

    def __init__(self, client: AsyncioCrossbar, location: Location, index: int) -> None:
        super().__init__(client, location, index)
        self._protocol: HostProtocol | None = None
        self._flush_scheduled = False
        self.task: asyncio.Task[None] | None = None
        self.ended = False

    def start(self) -> None:
        """Connect, now and whenever the connection is lost."""
        self._loop = asyncio.get_running_loop()
        self.task = self._loop.create_task(self._run())

    def write(self) -> None:
        """Schedule a write of what the session has to send, at the end of this iteration."""
        if not self._flush_scheduled and self._protocol is not None:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def stop(self) -> None:
        """Close the connection and do not reconnect."""
        if self.task is not None and not self._loop.is_closed():
            self.task.cancel()

    def cut(self) -> None:
        """Abort the connection, as a network failure would; the task reconnects."""
        if self._protocol is not None:
            self._protocol.transport.abort()

    @property
    def connected(self) -> bool:
        """True while there is a connection."""
        return self._protocol is not None

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport of the connection at the moment, if there is one."""
        return self._protocol.transport if self._protocol is not None else None

    def close_inherited(self) -> None:
        """In a forked child: close the copy of the parent's connection, and send nothing."""
        if self._protocol is not None:
            close_descriptor(self._protocol.transport.get_extra_info("socket").fileno())

    async def _run(self) -> None:
        """Connect, wait until the connection is lost, then reconnect."""
        pause = pauses()
        try:
            while True:
                await asyncio.sleep(next(pause))
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        self._protocol = await _connect(self.location, self.session)
                    self.write()
                    await asyncio.wait([self._protocol.over])
                    if self.session.ready:
                        pause = pauses()
                    raise self._protocol.over.result()
                except Exception as error:
                    self.on_error(error)
                finally:
                    await self._disconnect()
        finally:
            self.ended = True
            self.client.on_connection_ended()

    async def _disconnect(self) -> None:
        protocol = self._protocol
        if protocol is None or self._loop.is_closed():
            return
        if self.session.ready and not self.client.closed and not protocol.over.done():
            self.client.closing = True  # our task was cancelled, because the loop ends
            reply = self.session.call("deregister")
            self._flush()
            await asyncio.wait([reply], timeout=DEREGISTER_SECONDS)
        self._protocol = None
        self.session.disconnected()
        protocol.transport.abort()
        await asyncio.wait([protocol.over])

    def _flush(self) -> None:
        """Write everything queued since the last time."""
        self._flush_scheduled = False
        while self._protocol is not None and (pending := self.session.to_send()):
            self._protocol.transport.write(pending)


class HostProtocol(asyncio.Protocol):
    """One connection; `over` has the error that ended it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._error: Exception | None = None
        self.over: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake."""
        self.transport = cast(asyncio.Transport, transport)
        self._session.connected()

    def data_received(self, data: bytes) -> None:
        """Pass received bytes to the session."""
        if self._error is not None:
            return
        try:
            self._session.receive(data)
        except (GredisError, OSError) as error:
            self._error = error
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report why the connection ended."""
        self.over.set_result(self._error or exc or ConnectionResetError("closed by the server"))


async def _connect(location: Location, session: Session) -> HostProtocol:
    loop, protocol = asyncio.get_running_loop(), HostProtocol(session)
    if location.scheme == "sentinel":
        location = location.with_address(*await _ask_sentinels(location))
    if location.path:
        await loop.create_unix_connection(lambda: protocol, location.path)
        return protocol
    context = tls_context(location, ssl.SSLContext)
    name = location.host if context is not None else None
    transport, _ = await loop.create_connection(
        lambda: protocol, location.host, location.port, ssl=context, server_hostname=name
    )
    enable_keepalive(transport.get_extra_info("socket"))
    return protocol


async def _ask_sentinels(location: Location) -> tuple[str, int]:
    """Return the address of the master, from the first sentinel that knows it."""
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
    """One loop's access to the crossbar, see `Client`.

    All methods must be called in the loop that used it first. `on_close` is called when it closes,
    by `close()` or because its loop ends.
    """

    connection_type = AsyncioHostConnection
    connections: Sequence[AsyncioHostConnection]

    def __init__(
        self, *arguments: Any, on_close: Callable[[], None] | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._on_close = on_close

    @staticmethod
    def new_reply() -> asyncio.Future[Any]:
        """Return the future of a reply, to be awaited or not."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(_retrieve_exception)
        return reply

    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        """Call `function` after that time, in the loop."""
        return asyncio.get_running_loop().call_later(seconds, function)

    def cancel_timer(self, timer: Any) -> None:
        """Cancel a timer that `call_later` returned."""
        timer.cancel()

    # -- opening and closing

    async def open(self) -> None:
        """Connect and register. Raises `Unreachable` if a host does not answer in time."""
        for reply in self.ping():
            await reply

    async def close(self) -> None:
        """Deregister, so that nothing of this process is left, and fail all waiting calls."""
        if self.closed:
            return
        replies = self._deregister()
        if replies:
            await asyncio.wait(replies, timeout=self.timeout)
        self._end()
        tasks = [connection.task for connection in self.connections if connection.task]
        if tasks:
            await asyncio.wait(tasks)

    def on_connection_ended(self) -> None:
        """Close once the tasks of all connections have ended, because the loop ends."""
        if all(connection.ended for connection in self.connections):
            self._end()

    def _end(self) -> None:
        if not self.closed:
            self.abort()
            if self._on_close is not None:
                self._on_close()

    # -- the three verbs, awaiting

    async def unicast(self, address: Address, body: Any) -> None:
        """Send `body` to one receiver. Raises `Full`.

        It does not raise if the receiving process is dead: the message is stored in case the
        process reconnects. `mailbox().watch(inbox)` reports its death within `GRACE`.
        """
        raise_if_full(await self.unicast_soon(address, body), f"the inbox of {address}")

    async def anycast(self, queue: str, body: Any) -> None:
        """Send `body` to one consumer of `queue`, where it waits while none has room.

        Raises `Full` if the queue is full, too.
        """
        raise_if_full(await self.anycast_soon(queue, body), f"queue {queue!r}")

    async def multicast(self, group: str, body: Any) -> tuple[int, int]:
        """Send `body` to all processes with members. Return how many got it, and were full."""
        reached, full = (await self.multicast_soon(group, body))[:2]
        return reached, full

    def mailbox(self) -> AsyncioMailbox:
        """Return a new receiver of this loop, for one task to read."""
        self.start()
        return AsyncioMailbox(self, asyncio.Queue())

    # -- the same name as on gevent, for code that runs on both

    async def await_reply(self, reply: asyncio.Future[Any] | None) -> Any:
        """Await a reply; None is returned at once."""
        return None if reply is None else await reply


def _retrieve_exception(reply: asyncio.Future[Any]) -> None:
    """Mark an error as seen: a sender that does not wait does not want asyncio to log it."""
    if not reply.cancelled():
        reply.exception()


class AsyncioMailbox(Mailbox):
    """A receiver in this loop; bodies sent to its `address` are read with `get()`."""

    async def get(self) -> Any:
        """Wait for the next body. Raises `Gone` if the watched process has died."""
        return self._unpack(await self._bodies.get())


_crossbars: dict[tuple[Any, ...], AsyncioCrossbar] = {}


def connect(url: Urls, prefix: str = "gredis") -> AsyncioCrossbar:
    """Return the crossbar of the running loop for `url` and `prefix`, made on first use."""
    loop = asyncio.get_running_loop()
    key = (loop, url if isinstance(url, str) else tuple(url), prefix)
    found = _crossbars.get(key)
    if found is None or found.closed:
        _forget_ended_loops()
        found = _crossbars[key] = AsyncioCrossbar(url, prefix, on_close=lambda: _forget(key))
    return found


def _forget(key: tuple[Any, ...]) -> None:
    _crossbars.pop(key, None)


def open_crossbars() -> int:
    """Return the number of crossbars that `connect` has made and that are still open."""
    return len(_crossbars)


def _forget_ended_loops() -> None:
    """Drop crossbars of loops that ended without cancelling their tasks.

    Other threads may do the same at the same time.
    """
    for key in list(_crossbars):
        if key[0].is_closed() and (ended := _crossbars.pop(key, None)) is not None:
            ended.abandon()
