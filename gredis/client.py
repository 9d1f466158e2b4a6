"""One process's end of the crossbar: its verbs, without the waiting.

Both drivers build on this. Each verb returns a reply at once, to be waited for as the driver does:
gevent's `AsyncResult` (`.get()`) or asyncio's `Future` (`await`).

With several hosts each name belongs to one of them, by its checksum: a queue's and a group's by
their names, a unicast's by the inbox it goes to. All processes must list the same hosts in the same
order. A process is announced to every host; it has one line to each.

This file decides which host a call goes to and how long callers wait for a host that is away. It
leaves connecting to the drivers. Read next: `drivers/gevent.py` beside `drivers/asyncio.py`.
Taught in notebooks/14_under_load_and_shipping.ipynb.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from gredis.carriers.base import Carrier
from gredis.carriers.redis import RedisCarrier
from gredis.carriers.tcp import TcpCarrier
from gredis.errors import Closed, GredisError, Unreachable
from gredis.location import Location, locate
from gredis.messages import Kind, Message, pack
from gredis.names import Address
from gredis.router import Router
from gredis.session import GRACE, Session

log = logging.getLogger("gredis")

TIMEOUT_SECONDS = 10.0
"""Seconds a caller waits for a host to come back before it is told that it has not."""

INBOX_CAPACITY = 10_000
"""Messages that an inbox holds: some seconds of the fastest sender, some MB of small messages."""

QUEUE_CAPACITY = 1_000
"""Messages that wait in a queue while nobody has room for them."""

Urls = str | Sequence[str]


class HostConnection(ABC):
    """One connection to one host, made again whenever it is lost. Drivers say how."""

    def __init__(self, client: Client, location: Location, index: int) -> None:
        self.client = client
        self.location = location
        self.session = Session(
            client.router,
            _carrier(location, client.router.inbox, client.prefix),
            new_reply=client.new_reply,
            wake=self.wake,
            suspect=self._schedule_probe,
            ours=lambda name: client.host_index(name) == index,
            capacity=client.capacity,
            now=lambda: int(time.monotonic() * 1000),
        )
        self._probes: dict[str, Any] = {}  # the timers after which they are asked for
        self._refusal = ""
        self._limit: Any = None

    @abstractmethod
    def start(self) -> None:
        """Connect, now and whenever the connection is lost."""

    @abstractmethod
    def write(self) -> None:
        """Have what the session has to send written soon."""

    @abstractmethod
    def stop(self) -> None:
        """Close the connection and make no other."""

    def wake(self) -> None:
        """There is something to write. Who waits for a host that is away waits so long, at most."""
        self.write()
        if self.session.ready:
            if self._limit is not None:  # it would wake an idle process
                self.client.cancel_timer(self._limit)
                self._limit = None
        elif self._limit is None and self.session.has_pending_calls:
            self._limit = self.client.call_later(self.client.timeout, self._time_out)

    def _time_out(self) -> None:
        self._limit = None
        if not self.session.ready:
            place, seconds = self.location.display_url, self.client.timeout
            self.session.fail_all(Unreachable(f"no answer from {place} for {seconds} s"))

    def _schedule_probe(self, inbox: str) -> None:
        if inbox not in self._probes and not self.client.closing:
            self._probes[inbox] = self.client.call_later(GRACE, lambda: self._probe(inbox))

    def _probe(self, inbox: str) -> None:
        self._probes.pop(inbox, None)
        if not self.client.closing:
            self.session.probe(inbox)

    def cancel_timers(self) -> None:
        """The crossbar has been closed: nothing of it shall keep a process from ending."""
        for timer in [*self._probes.values(), self._limit]:
            if timer is not None:
                self.client.cancel_timer(timer)
        self._probes.clear()
        self._limit = None

    def refused(self, error: GredisError) -> None:
        """The other side does not want us: whoever waits is told, and the log once."""
        self.session.fail_all(error)
        if str(error) != self._refusal:
            self._refusal = str(error)
            log.error("%s: %s", self.location.display_url, error)

    @abstractmethod
    def close_inherited(self) -> None:
        """In a forked child: let go of the connection, which is the parent's, and say nothing."""

    def lost(self, error: Exception | str) -> None:
        """The connection is lost; the driver makes another one."""
        was_ready = self.session.ready
        self.session.disconnected()
        if was_ready and not self.client.closed:
            log.warning("lost %s (%s), connecting again", self.location.display_url, error)
            self.wake()


class Client(ABC):
    """One process's end of the crossbar.

    `url`: where the other side is, see `location.py`; several in a list or separated by spaces.
    `prefix`: of all names there; `timeout`: seconds; `capacity`: messages of an inbox;
    `waiting`: messages of a queue. Starts to connect when first used.
    """

    connection_type: type[HostConnection]

    def __init__(
        self,
        url: Urls,
        prefix: str = "gredis",
        *,
        timeout: float = TIMEOUT_SECONDS,
        capacity: int = INBOX_CAPACITY,
        waiting: int = QUEUE_CAPACITY,
    ) -> None:
        self.prefix = prefix
        self.timeout = timeout
        self.capacity = capacity
        self.waiting = waiting
        self.router = Router()
        self.router.acknowledge = lambda sender, members: self.send_confirm(sender)
        self.closing = False  # nothing is asked for any more: it would stay when we have gone
        self.closed = False
        urls = url.split() if isinstance(url, str) else url
        self.connections = [
            self.connection_type(self, locate(each), n) for n, each in enumerate(urls)
        ]
        self._started = False
        _clients.add(self)
        self.desk: Any = None  # of the channel layer, if one uses us

    @staticmethod
    @abstractmethod
    def new_reply() -> Any:
        """The driver's kind of future."""

    @abstractmethod
    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        """Call `function` then."""

    @abstractmethod
    def cancel_timer(self, timer: Any) -> None:
        """Do not call it after all; `timer` is what `later` returned."""

    @property
    def inbox(self) -> str:
        """The name of this process's inbox."""
        return self.router.inbox

    def start(self) -> None:
        """Begin to connect, unless that has been done; raises `Closed`."""
        if self.closing:
            raise Closed("this crossbar has been closed")
        if not self._started:
            self._started = True
            for connection in self.connections:
                connection.start()

    def host_index(self, name: str) -> int:
        """Which host a name belongs to."""
        return zlib.crc32(name.encode()) % len(self.connections) if len(self.connections) > 1 else 0

    def _call(self, name: str, script: str, *arguments: Any) -> Any:
        """Call a script soon at the host that is in charge of `name`."""
        self.start()
        return self.connections[self.host_index(name)].session.call(script, *arguments)

    def _call_all(self, script: str, *arguments: Any) -> list[Any]:
        self.start()
        return [connection.session.call(script, *arguments) for connection in self.connections]

    # -- the three verbs

    def unicast_soon(self, address: Address, body: Any) -> Any:
        """Send `body` to one receiver: the reply is OK, ABSENT or FULL."""
        return self.unicast_packed(address, pack(body))

    def unicast_packed(self, address: Address, packed: bytes) -> Any:
        """The same for what has been packed already."""
        wire = Message(Kind.UNICAST, address.local, packed).encode()
        return self._call(address.inbox, "unicast", address.inbox, wire, self.capacity)

    def anycast_soon(self, queue: str, body: Any) -> Any:
        """Send `body` to one taker of `queue`: the inbox it went to, WAITING or FULL."""
        return self.anycast_packed(queue, pack(body))

    def anycast_packed(
        self, queue: str, packed: bytes, waiting: int | None = None, expiry: float = 0
    ) -> Any:
        """The same for what has been packed; at most `waiting` wait, for `expiry` s (0: ever)."""
        wire = Message(Kind.ANYCAST, queue, packed).encode()
        room = self.waiting if waiting is None else waiting
        milliseconds = int(expiry * 1000)
        return self._call(queue, "anycast", queue, wire, self.capacity, room, milliseconds)

    def multicast_soon(self, group: str, body: Any) -> Any:
        """Send `body` to each process with members: [reached, full, absent inboxes …]."""
        return self.multicast_packed(group, pack(body))

    def multicast_packed(self, group: str, packed: bytes, told: Address | None = None) -> Any:
        """The same for what has been packed; `told` is told by each when all have room again."""
        if told is None:
            wire = Message(Kind.MULTICAST, group, packed).encode()
        else:
            wire = Message(Kind.CONFIRMED, f"{told} {group}", packed).encode()
        return self._call(group, "multicast", group, wire, self.capacity)

    def send_confirm(self, sender: Address) -> None:
        """Tell a sender that waits that all members here have room for another message."""
        if not self.closing:
            self.unicast_packed(sender, b"\xc0")

    # -- receiving

    def consume(self, queue: str, receiver: Callable[[bytes], None], room: int) -> Any:
        """Take from `queue`, at most `room` messages that have not been given back."""
        self.start()
        self.router.consume(queue, receiver, room)
        return self._call(queue, "consume", queue, room, self.capacity)

    def task_done(self, queue: str) -> Any:
        """A message of the queue has been dealt with: room for one more."""
        self.router.task_done(queue)
        return None if self.closing else self._call(queue, "consume", queue, 1, self.capacity)

    def stop_consuming(self, queue: str) -> Any:
        """Take from `queue` no longer."""
        self.router.stop_consuming(queue)
        return self._call(queue, "stop_consuming", queue)

    def join(self, group: str, local: str) -> Any:
        """Make a local a member; the reply to wait for, or None when there is none to come."""
        self.start()
        return self._call(group, "join", group) if self.router.join(group, local) else None

    def leave(self, group: str, local: str) -> Any:
        """End a membership; the reply to wait for, or None."""
        last = self.router.leave(group, local)
        return self._call(group, "leave", group) if last and not self.closing else None

    def remove(self, local: str) -> None:
        """Forget a local, and leave its groups."""
        for group in self.router.remove(local):
            if not self.closing:
                self._call(group, "leave", group)

    def probe(self, inbox: str) -> Any:
        """Somebody has reason to think that this process is dead: the reply is OK (it is there),
        ABSENT (not at the moment; if it stays so for `GRACE`, all are told) or GONE."""
        self.start()
        return self.connections[self.host_index(inbox)].session.probe(inbox)

    def flush(self) -> list[Any]:
        """No group and no message any more, for all processes with this prefix; for tests."""
        return self._call_all("flush")

    def status(self) -> list[Any]:
        """The figures of each host; see `status.py`."""
        return self._call_all("status")

    def ping(self) -> list[Any]:
        """Ping all hosts. Each reply raises `Unreachable` if its host does not answer in time."""
        return self._call_all("hello")

    # -- closing

    def _deregister(self) -> list[Any]:
        """Say good-bye to the hosts that can hear it, as the last thing that they hear."""
        self.closing = True
        ready = [connection for connection in self.connections if connection.session.ready]
        return [connection.session.call("deregister") for connection in ready]

    def abort(self) -> None:
        self.closing = self.closed = True
        for connection in self.connections:
            connection.stop()
            connection.session.fail_all(Closed("this crossbar has been closed"))
            connection.cancel_timers()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _forget_all() -> None:
    """A forked child has copies of its parent's connections.

    It must not use them, and not keep them open either: Redis would think that the parent lives as
    long as its children do.
    """
    for client in list(_clients):
        client.closing = client.closed = True
        for connection in client.connections:
            connection.close_inherited()


os.register_at_fork(after_in_child=_forget_all)


def close_descriptor(descriptor: int) -> None:
    """Close this process's copy of a connection, and leave its number to whoever thinks it open."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nowhere, descriptor, inheritable=False)
    os.close(nowhere)


def _carrier(location: Location, inbox: str, prefix: str) -> Carrier:
    if location.scheme == "tcp":
        return TcpCarrier(inbox, prefix)
    return RedisCarrier(
        inbox,
        prefix,
        location.username,
        location.password,
        location.database,
        location.client_name,
    )
