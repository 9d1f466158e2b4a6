"""The gevent driver: a process's crossbar, where waiting blocks a greenlet.

One connection per host, whatever the process does, with two greenlets: a reader, which passes
received bytes to the session, and a writer. The writer sends everything that has been queued since
its last turn in one piece: calls made together travel together, and none waits for others to come.
There are no time-outs and no polling: an idle process makes no system call.

gevent is used explicitly; nothing is patched. Read beside `asyncio.py`, which has the same classes
in the same order. Read next: `channels/layer.py`.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import gevent
from gevent import monkey, socket, ssl
from gevent.event import AsyncResult, Event
from gevent.queue import SimpleQueue

from gredis.client import Client, HostConnection, Urls, close_descriptor, raise_if_full
from gredis.drivers.sockets import enable_keepalive, tls_context
from gredis.errors import GredisError
from gredis.location import Location
from gredis.mailbox import Mailbox
from gredis.names import Address
from gredis.sentinel import decode_answer, encode_query
from gredis.session import pauses

log = logging.getLogger("gredis")

READ_BYTES = 64 * 1024
"""Bytes received at once."""

CONNECT_SECONDS = 5.0
"""Limit for connecting, including the TLS handshake."""

DEREGISTER_SECONDS = 1.0
"""A process that exits waits this long to deregister."""


class GeventHostConnection(HostConnection):
    """The connection to one host."""

    def __init__(self, client: Client, location: Location, index: int) -> None:
        super().__init__(client, location, index)
        self._socket: Any = None
        self._has_output = Event()
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Connect, now and whenever the connection is lost."""
        self._greenlets = [gevent.spawn(self._run), gevent.spawn(self._write)]

    def write(self) -> None:
        """Schedule a write of what the session has to send."""
        self._has_output.set()

    def stop(self) -> None:
        """Close the connection and do not reconnect."""
        gevent.killall(self._greenlets)

    def cut(self) -> None:
        """Shut the connection down, as a network failure would; the reader reconnects."""
        if self._socket is not None:
            _shut_down(self._socket)

    @property
    def connected(self) -> bool:
        """True while there is a connection."""
        return self._socket is not None

    def close_inherited(self) -> None:
        """In a forked child: close the copy of the parent's connection, and send nothing."""
        if self._socket is not None:
            close_descriptor(self._socket.fileno())
        gevent.killall(self._greenlets, block=False)

    def _run(self) -> None:
        """Pass on received bytes until the connection is lost, then reconnect."""
        pause = pauses()
        while True:
            gevent.sleep(next(pause))
            try:
                self._socket = _connect(self.location)
                self.session.connected()
                while received := self._socket.recv(READ_BYTES):
                    self.session.receive(received)
                    if self.session.ready:
                        pause = pauses()
                    gevent.sleep(0)  # let the greenlets that got these messages run before more
                raise ConnectionResetError("closed by the server")
            except Exception as error:
                self.on_error(error)
            finally:
                self._disconnect()

    def _disconnect(self) -> None:
        self.session.disconnected()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _write(self) -> None:
        """Write everything queued since the last time, in one piece."""
        while True:
            self._has_output.wait()
            self._has_output.clear()
            while self._socket is not None and (pending := self.session.to_send()):
                connected = self._socket
                try:
                    connected.sendall(pending)
                except OSError:
                    _shut_down(connected)  # wakes the reader, which reconnects


def _connect(location: Location) -> Any:
    with gevent.Timeout(CONNECT_SECONDS, TimeoutError("timed out while connecting")):
        if location.scheme == "sentinel":
            location = location.with_address(*_ask_sentinels(location))
        if location.path:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            connected = socket.create_connection((location.host, location.port))
        try:
            return _prepare(connected, location)
        except BaseException:
            connected.close()
            raise


def _prepare(connected: Any, location: Location) -> Any:
    if location.path:
        connected.connect(location.path)
        return connected
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    enable_keepalive(connected)
    context = tls_context(location, ssl.SSLContext)
    if context is not None:
        return context.wrap_socket(connected, server_hostname=location.host)
    return connected


def _ask_sentinels(location: Location) -> tuple[str, int]:
    """Return the address of the master, from the first sentinel that knows it."""
    problem: Exception = ConnectionError("no sentinel is configured")
    for sentinel in location.sentinels:
        try:
            with socket.create_connection(sentinel, 1.0) as connected:
                connected.sendall(encode_query(location.master))
                return decode_answer(connected.recv(READ_BYTES), location.master)
        except OSError as error:
            problem = error
    raise ConnectionError(f"no sentinel knows {location.master!r}: {problem}") from problem


def _shut_down(connected: Any) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class GeventCrossbar(Client):
    """One process's access to the crossbar, see `Client`.

    All methods may be called from any greenlet of the thread that used it first.
    """

    connection_type = GeventHostConnection

    @staticmethod
    def new_reply() -> AsyncResult:
        """Return the future of a reply; callers wait for it with `get()`."""
        return AsyncResult()

    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        """Call `function` after that time, in a greenlet."""
        # The hub's clock stands still while the hub does not run: in a process that was busy for
        # longer than `seconds`, the timer would otherwise expire at once.
        gevent.get_hub().loop.update_now()
        return gevent.spawn_later(seconds, function)

    def cancel_timer(self, timer: Any) -> None:
        """Cancel a timer that `call_later` returned."""
        timer.kill(block=False)

    # -- opening and closing

    def open(self) -> None:
        """Connect and register. Raises `Unreachable` if a host does not answer in time."""
        for reply in self.ping():
            reply.get()

    def close(self) -> None:
        """Deregister, so that nothing of this process is left, and fail all waiting calls."""
        if self.closed:
            return
        if self._started:
            try:
                for reply in self._deregister():
                    reply.get(timeout=self.timeout)
            except (GredisError, gevent.Timeout):
                log.warning("could not deregister; peers will detect the disconnect")
        self.abort()

    # -- the three verbs, blocking

    def unicast(self, address: Address, body: Any) -> None:
        """Send `body` to one receiver. Raises `Full`.

        It does not raise if the receiving process is dead: the message is stored in case the
        process reconnects. `mailbox().watch(inbox)` reports its death within `GRACE`.
        """
        raise_if_full(self.unicast_soon(address, body).get(), f"the inbox of {address}")

    def anycast(self, queue: str, body: Any) -> None:
        """Send `body` to one consumer of `queue`, where it waits while none has room.

        Raises `Full` if the queue is full, too.
        """
        raise_if_full(self.anycast_soon(queue, body).get(), f"queue {queue!r}")

    def multicast(self, group: str, body: Any) -> tuple[int, int]:
        """Send `body` to all processes with members. Return how many got it, and were full."""
        reached, full = self.multicast_soon(group, body).get()[:2]
        return reached, full

    def mailbox(self) -> GeventMailbox:
        """Return a new receiver of this process, for one greenlet to read."""
        self.start()
        return GeventMailbox(self, SimpleQueue())

    # -- for coroutines on a loop that runs on gevent

    async def await_reply(self, reply: AsyncResult | None) -> Any:
        """Await a reply on the running loop; None is returned at once."""
        if reply is None:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        reply.rawlink(lambda done: _settle_on(loop, future, done))
        return await future


def _settle_on(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: AsyncResult
) -> None:
    if not loop.is_closed():  # otherwise the task that awaited it is gone
        loop.call_soon_threadsafe(_settle, future, result)


def _settle(future: asyncio.Future[Any], result: AsyncResult) -> None:
    if future.done():
        return
    if result.successful():
        future.set_result(result.value)
    else:
        future.set_exception(result.exception)


class GeventMailbox(Mailbox):
    """A receiver in this process; bodies sent to its `address` are read with `get()`."""

    def get(self) -> Any:
        """Wait for the next body. Raises `Gone` if the watched process has died."""
        return self._unpack(self._bodies.get())


_thread_local = monkey.get_original("_thread", "_local")()
"""Crossbars by URL and prefix, of this native thread: it has a hub of its own."""


def connect(url: Urls, prefix: str = "gredis") -> GeventCrossbar:
    """Return the crossbar of this process for `url` and `prefix`, made on first use.

    A process has only one, so that it has one connection per host, whoever uses it: the channel
    layer, the relay and the worker share it. If it is still open when the process exits, it is
    closed then, because nothing closes a channel layer.
    """
    _register_exit_hook()
    crossbars: dict[str, GeventCrossbar] = vars(_thread_local)
    key = str((url if isinstance(url, str) else tuple(url), prefix))
    found = crossbars.get(key)
    if found is None or found.closed:
        found = crossbars[key] = GeventCrossbar(url, prefix)
    return found


@cache
def _register_exit_hook() -> None:
    atexit.register(_close_at_exit)


def _close_at_exit() -> None:
    """Close the crossbars of the main thread, whose hub can still run."""
    for crossbar in list(vars(_thread_local).values()):
        with gevent.Timeout(DEREGISTER_SECONDS, False):
            crossbar.close()
