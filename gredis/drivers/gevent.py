"""The gevent driver: one process's end of the crossbar, where waiting blocks a greenlet.

Two connections to Redis per process, whatever it does:

* *commands*: many greenlets call at once; a writer sends what has gathered (sends that happen
  together travel together, and none waits for company), a reader hands out the replies in order;
* *inbox*: one blocking read, for as long as it takes.

Both are subscribed to the channel that says "this process lives": as long as one of them stands,
nobody takes it for dead. When a connection is cut, it is made again; calls without an answer are
sent again, unless Redis says that they had been carried out (each call has a number).

No time-outs, no polling: an idle process makes no system call. gevent is used openly, nothing is
patched. Read next: `layer.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
import redis
from gevent import socket
from gevent.event import AsyncResult, Event
from gevent.queue import SimpleQueue
from redis.backoff import NoBackoff
from redis.retry import Retry

from gredis.carriers.redis import RedisCarrier
from gredis.crossbar import Crossbar
from gredis.errors import Closed, Full, Gone, GredisError, Unreachable
from gredis.messages import Kind, Letter, pack, unpack
from gredis.names import Address
from gredis.session import GRACE, PATIENCE, Session, pauses, shown

log = logging.getLogger("gredis")

LOST = (redis.ConnectionError, redis.TimeoutError, OSError)


class _Tcp(redis.Connection):
    """redis-py's connection on a socket of gevent's."""

    def _connect(self) -> Any:
        connected = socket.create_connection((self.host, self.port), self.socket_connect_timeout)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.settimeout(self.socket_timeout)
        return connected


class _Unix(redis.UnixDomainSocketConnection):
    """redis-py's connection on a Unix socket of gevent's."""

    def _connect(self) -> Any:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(self.socket_connect_timeout)
        try:
            connected.connect(self.path)
        except OSError:
            connected.close()
            raise
        connected.settimeout(self.socket_timeout)
        return connected


OURS = {redis.Connection: _Tcp, redis.UnixDomainSocketConnection: _Unix}


def connection(url: str) -> Any:
    """A redis-py connection for `url`, not yet connected; in gevent, and without time-outs."""
    pool = redis.ConnectionPool.from_url(
        url,
        protocol=3,  # a subscribed connection may go on with other commands
        socket_timeout=None,  # redis-py's 5 s would end a blocking read every 5 s
        socket_connect_timeout=5,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    return OURS.get(pool.connection_class, pool.connection_class)(**pool.connection_kwargs)


class GeventCrossbar:
    """One process's end of the crossbar.

    `url`: where Redis is, as redis-py's `from_url` understands it; `prefix`: of all keys.
    Connects when first used, or by `open()`. All methods may be called from any greenlet of the
    thread that opened it.
    """

    def __init__(self, url: str, prefix: str = "gredis", *, patience: float = PATIENCE) -> None:
        self.url = url
        self.patience = patience
        self.core = Crossbar()
        self.carrier = RedisCarrier(self.core.inbox, prefix)
        self.session = Session(self.core, self.carrier, AsyncResult, self._suspect)
        self._written = Event()
        self._connected = Event()
        self._greenlets: list[gevent.Greenlet] = []
        self._commands: Any = None
        self._reader: gevent.Greenlet | None = None
        self._closed = False
        self._suspects: set[str] = set()

    @property
    def inbox(self) -> str:
        """The name of this process's inbox."""
        return self.core.inbox

    # -- opening and closing

    def open(self) -> None:
        """Connect and announce; `Unreachable` when Redis does not answer within the patience."""
        if self._closed:
            raise Closed("this crossbar has been closed")
        if not self._greenlets:
            self._greenlets = [gevent.spawn(self._talk), gevent.spawn(self._write)]
        if not self._connected.wait(self.patience):
            raise Unreachable(f"no answer from Redis at {shown(self.url)} for {self.patience} s")

    def close(self) -> None:
        """Leave Redis as if this process had never been there, and end all waiting."""
        if self._closed:
            return
        if self._connected.is_set():
            try:
                self.submit("depart").get(timeout=self.patience)
            except (GredisError, gevent.Timeout, redis.RedisError):
                log.warning("could not say good-bye to Redis; others will find out")
        self._closed = True
        self._connected.clear()
        gevent.killall([*self._greenlets, *([self._reader] if self._reader else [])])
        if self._commands is not None:
            self._commands.disconnect()
        self.session.fail_all(Closed("this crossbar has been closed"))

    # -- the three verbs

    def unicast(self, address: Address, body: Any) -> None:
        """Send `body` to one receiver; raises `Full`.

        When its process is dead, that is found out within `GRACE`, and `Mailbox.watch` tells.
        """
        if self.unicast_soon(address, body).get() == b"FULL":
            raise Full(f"the inbox of {address} is full")

    def unicast_soon(self, address: Address, body: Any) -> AsyncResult:
        """The same without waiting: the reply is OK, ABSENT or FULL."""
        wire = Letter(Kind.UNICAST, address.local, pack(body)).encode()
        return self.submit(*self.carrier.unicast(address.inbox, wire))

    def anycast(self, queue: str, body: Any) -> None:
        """Send `body` to one process that takes from `queue`; it may wait there; raises `Full`."""
        if self.anycast_soon(queue, body).get() == b"FULL":
            raise Full(f"nobody has room for what comes to queue {queue!r}, and it is full")

    def anycast_soon(self, queue: str, body: Any, waiting: int | None = None) -> AsyncResult:
        """The same without waiting: the reply is the inbox it went to, WAITING or FULL."""
        wire = Letter(Kind.ANYCAST, queue, pack(body)).encode()
        return self.submit(*self.carrier.anycast(queue, wire, waiting))

    def multicast(self, group: str, body: Any) -> tuple[int, int]:
        """Send `body` to all processes with members: how many it reached, how many were full."""
        reached, full = self.multicast_soon(group, body).get()[:2]
        return reached, full

    def multicast_soon(self, group: str, body: Any) -> AsyncResult:
        """The same without waiting."""
        wire = Letter(Kind.MULTICAST, group, pack(body)).encode()
        return self.submit(*self.carrier.multicast(group, wire))

    # -- receiving

    def mailbox(self) -> Mailbox:
        """A new receiver of this process, for one greenlet to read."""
        return Mailbox(self)

    def take(self, queue: str, receiver: Callable[[bytes], None], room: int) -> AsyncResult:
        """Take from `queue`, at most `room` letters that have not been given back."""
        self.core.take(queue, receiver, room)
        return self.submit(*self.carrier.take(queue, room))

    def give_back(self, queue: str) -> AsyncResult:
        """A letter of the queue has been dealt with: room for one more."""
        self.core.given_back(queue)
        return self.submit(*self.carrier.take(queue, 1))

    def untake(self, queue: str) -> AsyncResult:
        """Take from `queue` no longer."""
        self.core.untake(queue)
        return self.submit("untake", queue)

    def join(self, group: str, local: str) -> AsyncResult | None:
        """Make a local a member; the reply to wait for, or None when there is none to come."""
        return self.submit("join", group) if self.core.join(group, local) else None

    def leave(self, group: str, local: str) -> AsyncResult | None:
        """End a membership; the reply to wait for, or None."""
        return self.submit("leave", group) if self.core.leave(group, local) else None

    def remove(self, local: str) -> None:
        """Forget a local, and leave its groups."""
        for group in self.core.remove(local):
            self.submit("leave", group)

    def flush(self) -> AsyncResult:
        """No group and no message any more, for all processes with this prefix; for tests."""
        return self.submit("flush")

    # -- is somebody dead?

    def _suspect(self, inbox: str) -> None:
        if inbox not in self._suspects:
            self._suspects.add(inbox)
            gevent.spawn_later(GRACE, self._confirm, inbox)

    def _confirm(self, inbox: str) -> None:
        self._suspects.discard(inbox)
        try:
            if self.submit("confirm", inbox).get() == b"GONE":
                self.core.found_gone(inbox)
        except GredisError as error:
            log.debug("could not ask whether %s is dead: %s", inbox, error)

    # -- the connection for commands

    def submit(self, script: str, *arguments: Any) -> AsyncResult:
        """Call a script soon; the reply's `get()` raises what went wrong."""
        if not self._connected.is_set():
            self.open()
        reply: AsyncResult = self.session.call(script, *arguments)
        self._written.set()
        return reply

    def _write(self) -> None:
        """Send what has gathered since the last time, in one piece."""
        while True:
            self._written.wait()
            self._connected.wait()
            self._written.clear()
            commands = self._commands
            try:
                packed = commands.pack_commands(self.session.commands())
                commands.send_packed_command(packed, check_health=False)
            except LOST:
                commands.disconnect()  # wakes the reader, which connects again

    def _talk(self) -> None:
        """Connect, hand out replies until the connection is lost, and again."""
        pause = pauses()
        while not self._closed:
            gevent.sleep(next(pause))
            try:
                self._connect()
                pause = pauses()
                self._hand_out_replies()
            except LOST as error:
                was_connected = self._connected.is_set()
                # Before anything else can run: a write now would open the connection again, alone.
                self._connected.clear()
                if was_connected:
                    log.warning("lost Redis (%s), connecting again", error)
            except redis.RedisError as error:
                self._connected.clear()
                log.error("Redis refuses: %s", error)

    def _connect(self) -> None:
        if self._commands is not None:
            self._commands.disconnect()
        self._commands = connection(self.url)
        self._commands.connect()
        for command in self.session.handshake():
            self._commands.send_command(*command)
            if command[0] != "SUBSCRIBE":
                self._commands.read_response()
        self._commands.send_command(*self.session.announce())
        forgotten = self.session.announced(self._commands.read_response(disable_decoding=True))
        if forgotten or self._reader is None:
            self._read_anew()
        self._written.set()
        self._connected.set()

    def _read_anew(self) -> None:
        if self._reader is not None:
            self._reader.kill()
        self._reader = gevent.spawn(self._read)

    def _hand_out_replies(self) -> None:
        while True:
            try:
                reply = self._commands.read_response(disable_decoding=True)
            except redis.ResponseError as error:
                self.session.refused(error)
            else:
                self.session.answered(reply)

    # -- the connection for the inbox

    def _read(self) -> None:
        pause = pauses()
        while not self._closed:
            gevent.sleep(next(pause))
            reading = connection(self.url)
            try:
                reading.connect()
                reading.send_command("SUBSCRIBE", self.carrier.here)
                pause = pauses()
                while True:
                    self._read_once(reading)
            except LOST as error:
                log.debug("lost the inbox (%s), connecting again", error)
            except redis.RedisError as error:
                log.error("Redis refuses to read the inbox: %s", error)
            finally:
                reading.disconnect()

    def _read_once(self, reading: Any) -> None:
        reading.send_command(*self.session.read())
        if self.session.received(reading.read_response(disable_decoding=True)):
            reading.send_command(*self.session.trim())
            reading.read_response()
        gevent.sleep(0)  # whom these letters woke may run before the next are read


class Mailbox:
    """A receiver of this process: what is sent to its `address` is read with `get()`."""

    def __init__(self, crossbar: GeventCrossbar) -> None:
        self._crossbar = crossbar
        self._bodies: SimpleQueue = SimpleQueue()
        self.address = crossbar.core.add(self._bodies.put)
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
            self._crossbar.core.unwatch(self._watched, self._found_gone)
        self._watched = inbox
        self._crossbar.core.watch(inbox, self._found_gone)

    def _found_gone(self, inbox: str) -> None:
        self.interrupt()

    def close(self) -> None:
        """Receive no more."""
        if self._watched is not None:
            self._crossbar.core.unwatch(self._watched, self._found_gone)
        self._crossbar.remove(self.address.local)


_crossbars: dict[tuple[str, str], GeventCrossbar] = {}


def connect(url: str, prefix: str = "gredis") -> GeventCrossbar:
    """The crossbar of this process for `url` and `prefix`, made when first asked for.

    A process has one, so that its connections to Redis stay two, whoever uses it: the channel
    layer, the relay and the worker share it.
    """
    found = _crossbars.get((url, prefix))
    if found is None or found._closed:
        found = _crossbars[url, prefix] = GeventCrossbar(url, prefix)
    return found
