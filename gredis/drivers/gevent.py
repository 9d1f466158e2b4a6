"""The gevent driver: one process's end of the crossbar, where waiting blocks a greenlet.

One connection per host, whatever the process does: a reader, which hands received bytes to the
session, and a writer, which sends what has gathered: sends that happen together travel together,
and none waits for company. No time-outs, no polling: an idle process makes no system call.

gevent is used openly, nothing is patched. Read beside `asyncio.py`, which has the same classes in
the same order. Read next: `channels/layer.py`.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey, socket, ssl
from gevent.event import AsyncResult, Event
from gevent.queue import SimpleQueue

from gredis.client import Client, HostConnection, Urls, close_descriptor
from gredis.errors import Full, Gone, GredisError
from gredis.location import KEEPALIVE, Location
from gredis.messages import unpack
from gredis.names import Address
from gredis.sentinel import decode_answer, encode_query
from gredis.session import pauses

log = logging.getLogger("gredis")

READ_BYTES = 64 * 1024
"""Bytes received at once."""

CONNECT_SECONDS = 5.0
"""For connecting and for the handshake of TLS."""


class GeventHostConnection(HostConnection):
    """One connection to one host."""

    def __init__(self, client: Client, location: Location, index: int) -> None:
        super().__init__(client, location, index)
        self._socket: Any = None
        self._written = Event()
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Connect, now and whenever the connection is lost."""
        self._greenlets = [gevent.spawn(self._run), gevent.spawn(self._write)]

    def write(self) -> None:
        """Have what the session has to send written soon."""
        self._written.set()

    def stop(self) -> None:
        """Close the connection and make no other."""
        gevent.killall(self._greenlets)

    def close_inherited(self) -> None:
        """In a forked child: let go of the connection, and say nothing."""
        if self._socket is not None:
            close_descriptor(self._socket.fileno())
        gevent.killall(self._greenlets, block=False)

    def _run(self) -> None:
        """Hand over what comes until the connection is lost, and again."""
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
                    gevent.sleep(0)  # whom these messages woke may run before the next are read
                self.lost("closed by the other side")
            except OSError as error:
                self.lost(error)
            except GredisError as error:
                self.lost(error)
                self.refused(error)
            except Exception as error:  # a mistake of ours must not end all communication
                self.lost(error)
                log.exception("%s: could not deal with what came", self.location.display_url)
            finally:
                self._disconnect()

    def _disconnect(self) -> None:
        self.session.disconnected()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _write(self) -> None:
        """Send what has gathered since the last time, in one piece."""
        while True:
            self._written.wait()
            self._written.clear()
            while self._socket is not None and (gathered := self.session.to_send()):
                connected = self._socket
                try:
                    connected.sendall(gathered)
                except OSError:
                    _cut(connected)  # wakes the reader, which connects again


def _connect(location: Location) -> Any:
    with gevent.Timeout(CONNECT_SECONDS, TimeoutError("no connection in time")):
        if location.scheme == "sentinel":
            location = location.at(*_ask_sentinels(location))
        if location.path:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            address: Any = location.path
        else:
            connected = socket.create_connection((location.host, location.port))
            address = None
        try:
            return _prepared(connected, address, location)
        except BaseException:
            connected.close()
            raise


def _prepared(connected: Any, address: Any, location: Location) -> Any:
    if address is not None:
        connected.connect(address)
        return connected
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    context = location.context(ssl.SSLContext)
    if context is not None:
        return context.wrap_socket(connected, server_hostname=location.host)
    return connected


def _ask_sentinels(location: Location) -> tuple[str, int]:
    """Where the master is, as the first sentinel says that knows it."""
    problem: Exception = ConnectionError("no sentinel is configured")
    for sentinel in location.sentinels:
        try:
            with socket.create_connection(sentinel, 1.0) as connected:
                connected.sendall(encode_query(location.master))
                return decode_answer(connected.recv(READ_BYTES), location.master)
        except OSError as error:
            problem = error
    raise ConnectionError(f"no sentinel knows {location.master!r}: {problem}") from problem


def _cut(connected: Any) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class GeventCrossbar(Client):
    """One process's end of the crossbar, see `Client`.

    All methods may be called from any greenlet of the thread that used it first.
    """

    connection_type = GeventHostConnection

    @staticmethod
    def new_reply() -> AsyncResult:
        """What a caller waits for with `get()`."""
        return AsyncResult()

    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        """Call `function` then, in a greenlet."""
        # The hub's clock stands still while the hub does not run: in a process that was busy for
        # longer than `seconds` the time would be over at once.
        gevent.get_hub().loop.update_now()
        return gevent.spawn_later(seconds, function)

    def cancel_timer(self, timer: Any) -> None:
        """Do not call it after all."""
        timer.kill(block=False)

    # -- opening and closing

    def open(self) -> None:
        """Connect and announce; `Unreachable` when there is no answer within the timeout."""
        for reply in self.ping():
            reply.get()

    def close(self) -> None:
        """Leave as if this process had never been there, and end all waiting."""
        if self.closed:
            return
        if self._started:
            try:
                for reply in self._deregister():
                    reply.get(timeout=self.timeout)
            except (GredisError, gevent.Timeout):
                log.warning("could not say good-bye; others will find out")
        self.abort()

    # -- the three verbs

    def unicast(self, address: Address, body: Any) -> None:
        """Send `body` to one receiver; raises `Full`.

        When its process is dead, that is found out within `GRACE`, and `Mailbox.watch` tells.
        """
        if self.unicast_soon(address, body).get() == b"FULL":
            raise Full(f"the inbox of {address} is full")

    def anycast(self, queue: str, body: Any) -> None:
        """Send `body` to one process that takes from `queue`; it may wait there; raises `Full`."""
        if self.anycast_soon(queue, body).get() == b"FULL":
            raise Full(f"nobody has room for what comes to queue {queue!r}, and it is full")

    def multicast(self, group: str, body: Any) -> tuple[int, int]:
        """Send `body` to all processes with members: how many it reached, how many were full."""
        reached, full = self.multicast_soon(group, body).get()[:2]
        return reached, full

    # -- receiving

    def mailbox(self) -> Mailbox:
        """A new receiver of this process, for one greenlet to read."""
        self.start()
        return Mailbox(self)

    # -- for coroutines on a loop that runs on gevent

    async def await_reply(self, reply: AsyncResult | None) -> Any:
        """The reply, await_reply on the running loop."""
        if reply is None:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        reply.rawlink(lambda done: _settle_on(loop, future, done))
        return await future


def _settle_on(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: AsyncResult
) -> None:
    if not loop.is_closed():  # else who await_reply it has given up
        loop.call_soon_threadsafe(_settle, future, result)


def _settle(future: asyncio.Future[Any], result: AsyncResult) -> None:
    if future.done():
        return
    if result.successful():
        future.set_result(result.value)
    else:
        future.set_exception(result.exception)


class Mailbox:
    """A receiver of this process: what is sent to its `address` is read with `get()`."""

    def __init__(self, crossbar: GeventCrossbar) -> None:
        self._crossbar = crossbar
        self._bodies: SimpleQueue = SimpleQueue()
        self.address = crossbar.router.add(self._bodies.put)
        self._watched: str | None = None

    def get(self) -> Any:
        """The next body; blocks; raises `Gone` when the watched process has died."""
        body = self._bodies.get()
        if body is None:
            raise Gone(f"the process {self._watched} is no longer there")
        return unpack(body)

    def interrupt(self) -> None:
        """Let `get()` raise `Gone`, after all bodies that have come, as if the process had died."""
        self._bodies.put(None)

    def watch(self, inbox: str) -> None:
        """From now on `get()` raises `Gone`, after all bodies, when that process dies."""
        if self._watched is not None:
            self._crossbar.router.unwatch(self._watched, self._on_process_gone)
        self._watched = inbox
        self._crossbar.router.watch(inbox, self._on_process_gone)

    def _on_process_gone(self, inbox: str) -> None:
        self.interrupt()

    def close(self) -> None:
        """Receive no more."""
        if self._watched is not None:
            self._crossbar.router.unwatch(self._watched, self._on_process_gone)
        self._crossbar.remove(self.address.local)


DEREGISTER_SECONDS = 1.0
"""For the good-bye of a process that ends and has not said it."""

_of_this_thread = monkey.get_original("_thread", "_local")()
"""A native thread has a hub of its own, and so a crossbar of its own."""


def connect(url: Urls, prefix: str = "gredis") -> GeventCrossbar:
    """The crossbar of this process for `url` and `prefix`, made when first asked for.

    A process has one, so that its connections stay one per host, whoever uses it: the channel
    layer, the relay and the worker share it. One that is still open when the process ends says
    good-bye then: nobody closes a channel layer.
    """
    crossbars: dict[str, GeventCrossbar] = vars(_of_this_thread)
    key = str((url if isinstance(url, str) else tuple(url), prefix))
    found = crossbars.get(key)
    if found is None or found.closed:
        found = crossbars[key] = GeventCrossbar(url, prefix)
    return found


@atexit.register
def _say_good_bye() -> None:
    """In the main thread, whose hub can still run."""
    for crossbar in list(vars(_of_this_thread).values()):
        with gevent.Timeout(DEREGISTER_SECONDS, False):
            crossbar.close()
