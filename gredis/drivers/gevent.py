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
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import redis
from gevent import socket
from gevent.event import AsyncResult, Event
from gevent.queue import SimpleQueue
from redis.backoff import NoBackoff
from redis.retry import Retry

from gredis.carriers.redis import TRIM_AFTER, RedisCarrier, entries
from gredis.crossbar import Crossbar
from gredis.errors import Closed, Full, Gone, GredisError, Unreachable
from gredis.messages import Kind, Letter, pack, unpack
from gredis.names import Address

log = logging.getLogger("gredis")

PATIENCE = 10.0
"""Seconds a caller waits for Redis to come back before it is told that it has not."""

PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Seconds between attempts to connect again; the last one is repeated."""

GRACE = 0.5
"""Seconds a process may be cut off before it is taken for dead: more than it needs to come back."""

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
        connected.connect(self.path)
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


class _Call:
    """One call of a script: its number, and where its reply goes."""

    __slots__ = ("arguments", "number", "reply")

    def __init__(self, number: int, arguments: tuple[Any, ...]) -> None:
        self.number = number
        self.arguments = arguments
        self.reply: AsyncResult = AsyncResult()


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
        self._numbers = 0
        self._unsent: deque[_Call] = deque()
        self._unanswered: deque[_Call] = deque()
        self._written = Event()
        self._connected = Event()
        self._last = b"0-0"
        self._trimmed = 0
        self._greenlets: list[gevent.Greenlet] = []
        self._commands: Any = None
        self._reading: Any = None
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
            raise Unreachable(f"no answer from Redis at {_shown(self.url)} for {self.patience} s")

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
        gevent.killall(self._greenlets)
        for lost in (self._commands, self._reading):
            if lost is not None:
                lost.disconnect()
        self._fail_all(Closed("this crossbar has been closed"))

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

    def _look_for_absent(self, script: str, arguments: tuple[Any, ...], reply: Any) -> None:
        if script == "unicast" and reply == b"ABSENT":
            self._suspect(arguments[0])
        elif script == "multicast":
            for inbox in reply[2:]:
                self._suspect(inbox.decode())

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
        return self._enqueue((script, *arguments))

    def _write(self) -> None:
        """Send what has gathered since the last time, in one piece."""
        while True:
            self._written.wait()
            self._connected.wait()
            self._written.clear()
            calls = list(self._unsent)
            self._unsent.clear()
            self._unanswered.extend(calls)
            try:
                self._send([self.carrier.call(c.arguments[0], c.number, *c.arguments[1:])
                            for c in calls])  # fmt: skip
            except LOST:
                self._commands.disconnect()  # wakes the reader, which connects again

    def _send(self, commands: list[tuple[Any, ...]]) -> None:
        self._commands.send_packed_command(self._commands.pack_commands(commands), False)

    def _talk(self) -> None:
        """Connect, hand out replies until the connection is lost, and again."""
        attempt = 0
        while not self._closed:
            gevent.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
            attempt += 1
            try:
                self._connect()
                attempt = 0
                self._hand_out_replies()
            except LOST as error:
                if self._connected.is_set():
                    log.warning("lost Redis (%s), connecting again", error)
                self._connected.clear()
            except redis.RedisError as error:
                log.error("Redis refuses: %s", error)
                self._connected.clear()

    def _connect(self) -> None:
        if self._commands is not None:
            self._commands.disconnect()
        self._commands = connection(self.url)
        self._commands.connect()
        for command in self.carrier.handshake():
            self._commands.send_command(*command)
            if command[0] != "SUBSCRIBE":  # its answer is a push, which redis-py sets aside
                self._commands.read_response()
        self._commands.send_command(*self.carrier.announce(self.core.announcement()))
        fresh, carried_out, *absent = self._commands.read_response(disable_decoding=True)
        if fresh and self._last != b"0-0":
            log.warning("Redis had forgotten this process: announced again")
            self._last = b"0-0"
            self._reading.disconnect()
        for inbox in absent:
            self._suspect(inbox.decode())
        if self._reading is None:
            self._reading = connection(self.url)
            self._greenlets.append(gevent.spawn(self._read))
        self._send_again(carried_out)
        self._connected.set()

    def _send_again(self, carried_out: int) -> None:
        """Answer the calls that had been carried out; the others are written once more."""
        again = list(self._unanswered)
        self._unanswered.clear()
        for call in again:
            if call.number <= carried_out:
                call.reply.set([0, 0] if call.arguments[0] == "multicast" else b"OK")
        self._unsent.extendleft(call for call in reversed(again) if call.number > carried_out)
        self._written.set()
        for queue in self.core.announcement().queues:  # something may wait there
            self._enqueue(self.carrier.take(queue, 0))

    def _enqueue(self, arguments: tuple[Any, ...]) -> AsyncResult:
        self._numbers += 1
        call = _Call(self._numbers, arguments)
        self._unsent.append(call)
        self._written.set()
        return call.reply

    def _hand_out_replies(self) -> None:
        while True:
            try:
                reply = self._commands.read_response(disable_decoding=True)
            except redis.ResponseError as error:
                self._unanswered.popleft().reply.set_exception(error)
            else:
                call = self._unanswered.popleft()
                call.reply.set(reply)
                self._look_for_absent(call.arguments[0], call.arguments[1:], reply)

    def _fail_all(self, error: GredisError) -> None:
        for call in [*self._unanswered, *self._unsent]:
            if not call.reply.ready():
                call.reply.set_exception(error)
        self._unanswered.clear()
        self._unsent.clear()

    # -- the connection for the inbox

    def _read(self) -> None:
        attempt = 0
        while not self._closed:
            gevent.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
            attempt += 1
            try:
                self._reading.connect()
                self._reading.send_command("SUBSCRIBE", self.carrier.here)
                attempt = 0
                while True:
                    self._read_once()
            except LOST as error:
                log.debug("lost the inbox (%s), connecting again", error)
                self._reading.disconnect()
            except redis.RedisError as error:
                log.error("Redis refuses to read the inbox: %s", error)
                self._reading.disconnect()

    def _read_once(self) -> None:
        self._reading.send_command(*self.carrier.read(self._last))
        batch = entries(self._reading.read_response(disable_decoding=True))
        for number, wire in batch:
            self._last = number
            try:
                self.core.deliver(wire)
            except Exception:
                log.exception("a letter could not be delivered")
        self._trimmed += len(batch)
        if self._trimmed >= TRIM_AFTER:
            self._trimmed = 0
            self._reading.send_command(*self.carrier.trim(self._last))
            self._reading.read_response()
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

    def watch(self, inbox: str) -> None:
        """From now on `get()` raises `Gone`, after all bodies, when that process dies."""
        self._watched = inbox
        self._crossbar.core.watch(inbox, self._found_gone)

    def _found_gone(self, inbox: str) -> None:
        self._bodies.put(None)

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


def _shown(url: str) -> str:
    """The URL without its password."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url
