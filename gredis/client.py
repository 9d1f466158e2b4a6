"""The client: one process's access to the crossbar. It has all verbs, but does not wait.

Both drivers build on it. Each verb returns a reply at once: gevent's `AsyncResult` (`.get()`) or
asyncio's `Future` (`await`). The drivers add the same verbs in the form that waits.

With several hosts, each name belongs to one of them, by its checksum: queues and groups by their
own names, a unicast by the inbox it goes to. All processes must list the same hosts in the same
order. A process registers with every host, and has one connection to each.

This file decides which host a call goes to, how long callers wait for a host that is away, and when
to probe a process that may be dead. It leaves connecting to the drivers, and the protocol to
`session.py`. Read next: `drivers/gevent.py` beside `drivers/asyncio.py`.
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
from functools import cache
from typing import Any, TypeVar

from gredis.carriers.base import Carrier
from gredis.carriers.redis import RedisCarrier
from gredis.carriers.tcp import TcpCarrier
from gredis.errors import Closed, Full, GredisError, Unreachable
from gredis.location import Location, locate
from gredis.messages import Kind, Message, pack
from gredis.names import Address
from gredis.router import Router
from gredis.session import GRACE, TIMEOUT_SECONDS, Session

log = logging.getLogger("gredis")

INBOX_CAPACITY = 10_000
"""Messages in an inbox: some seconds of the fastest sender, some MB of small messages."""

QUEUE_CAPACITY = 1_000
"""Messages that wait in a queue while no consumer has room."""

Urls = str | Sequence[str]

Shared = TypeVar("Shared")


class HostConnection(ABC):
    """The connection to one host, made again whenever it is lost. Drivers implement it."""

    def __init__(self, client: Client, location: Location, index: int) -> None:
        self.client = client
        self.location = location
        self.session = Session(
            client.router,
            _carrier(location, client.inbox, client.prefix),
            new_reply=client.new_reply,
            wake=self.wake,
            on_absent=self._schedule_probe,
            owned=lambda name: client.host_index(name) == index,
            capacity=client.capacity,
            now=lambda: int(time.monotonic() * 1000),
        )
        self._probes: dict[str, Any] = {}  # timers, by the inbox to be probed
        self._timeout: Any = None  # the timer for callers that wait for this host
        self._last_refusal = ""

    @abstractmethod
    def start(self) -> None:
        """Connect, now and whenever the connection is lost."""

    @abstractmethod
    def write(self) -> None:
        """Schedule a write of what the session has to send."""

    @abstractmethod
    def stop(self) -> None:
        """Close the connection and do not reconnect."""

    @abstractmethod
    def close_inherited(self) -> None:
        """In a forked child: close the copy of the parent's connection, and send nothing."""

    def wake(self) -> None:
        """Schedule a write, and limit how long callers wait while the host is away."""
        self.write()
        if self.session.ready:
            if self._timeout is not None:  # it would wake an idle process
                self.client.cancel_timer(self._timeout)
                self._timeout = None
        elif self._timeout is None and self.session.has_pending_calls:
            self._timeout = self.client.call_later(self.client.timeout, self._time_out)

    def _time_out(self) -> None:
        self._timeout = None
        if not self.session.ready:
            url, seconds = self.location.display_url, self.client.timeout
            self.session.fail_all(Unreachable(f"no answer from {url} for {seconds} s"))

    def _schedule_probe(self, inbox: str) -> None:
        # A process that was cut off is back within GRACE; only a dead one stays absent.
        if inbox not in self._probes and not self.client.closing:
            self._probes[inbox] = self.client.call_later(GRACE, lambda: self._probe(inbox))

    def _probe(self, inbox: str) -> None:
        self._probes.pop(inbox, None)
        if not self.client.closing:
            self.session.probe(inbox)

    def cancel_timers(self) -> None:
        """Cancel all timers, so that a closed crossbar does not keep a process from exiting."""
        for timer in [*self._probes.values(), self._timeout]:
            if timer is not None:
                self.client.cancel_timer(timer)
        self._probes.clear()
        self._timeout = None

    def on_error(self, error: Exception) -> None:
        """Record why the connection is lost; the driver reconnects.

        A refusal fails all pending calls and is logged once, until it changes. An error that is
        neither of the network nor of the server is a bug; it is logged, and must not stop the
        process from communicating.
        """
        was_ready = self.session.ready
        self.session.disconnected()
        if was_ready and not self.client.closed:
            log.warning(
                "connection to %s lost (%s); reconnecting", self.location.display_url, error
            )
            self.wake()
        if isinstance(error, OSError):
            return
        if not isinstance(error, GredisError):
            log.error("%s: unexpected error", self.location.display_url, exc_info=error)
            return
        self.session.fail_all(error)
        if str(error) != self._last_refusal:
            self._last_refusal = str(error)
            log.error("%s: %s", self.location.display_url, error)


class Client(ABC):
    """One process's (or loop's) access to the crossbar.

    `url`: that of Redis or a hub, see `location.py`; several in a list or separated by spaces.
    `prefix`: of all names there. `timeout`: seconds that callers wait for a host that is away.
    `capacity`: messages in an inbox. `queue_capacity`: messages that wait in a queue.
    Connects on first use.
    """

    connection_type: type[HostConnection]
    connections: Sequence[HostConnection]

    def __init__(
        self,
        url: Urls,
        prefix: str = "gredis",
        *,
        timeout: float = TIMEOUT_SECONDS,
        capacity: int = INBOX_CAPACITY,
        queue_capacity: int = QUEUE_CAPACITY,
    ) -> None:
        self.prefix = prefix
        self.timeout = timeout
        self.capacity = capacity
        self.queue_capacity = queue_capacity
        self.router = Router(confirm=self.send_confirm)
        self.closing = False  # no new calls: they would leave state behind after deregistering
        self.closed = False
        urls = url.split() if isinstance(url, str) else url
        self.connections = [
            self.connection_type(self, locate(each), index) for index, each in enumerate(urls)
        ]
        self._started = False
        self._shared: dict[Any, Any] = {}
        _register_fork_hook()
        _clients.add(self)

    @staticmethod
    @abstractmethod
    def new_reply() -> Any:
        """Return a future of the driver's kind."""

    @abstractmethod
    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        """Call `function` after that time. Return a timer."""

    @abstractmethod
    def cancel_timer(self, timer: Any) -> None:
        """Cancel a timer that `call_later` returned."""

    @property
    def inbox(self) -> str:
        """The name of this process's inbox."""
        return self.router.inbox

    def shared(self, make: Callable[[Client], Shared]) -> Shared:
        """Return this client's only object made by `make`, which is called the first time.

        For state that all users of one client must share, such as the table of its channels.
        """
        if make not in self._shared:
            self._shared[make] = make(self)
        found: Shared = self._shared[make]
        return found

    def start(self) -> None:
        """Start to connect, unless already done. Raises `Closed`."""
        if self.closing:
            raise Closed("this crossbar has been closed")
        if not self._started:
            self._started = True
            for connection in self.connections:
                connection.start()

    def host_index(self, name: str) -> int:
        """Return the index of the host that a name belongs to."""
        return zlib.crc32(name.encode()) % len(self.connections) if len(self.connections) > 1 else 0

    def _call(self, name: str, script: str, *arguments: Any) -> Any:
        """Queue a call to the host that `name` belongs to."""
        self.start()
        return self.connections[self.host_index(name)].session.call(script, *arguments)

    def _call_all(self, script: str, *arguments: Any) -> list[Any]:
        self.start()
        return [connection.session.call(script, *arguments) for connection in self.connections]

    # -- the three verbs, without waiting: each returns the future of a reply

    def unicast_soon(self, address: Address, body: Any) -> Any:
        """Send `body` to one receiver. The reply is OK, ABSENT (stored, not connected) or FULL."""
        return self.unicast_packed(address, pack(body))

    def unicast_packed(self, address: Address, packed: bytes) -> Any:
        """Like `unicast_soon`, for a packed body."""
        wire = Message(Kind.UNICAST, address.local, packed).encode()
        return self._call(address.inbox, "unicast", address.inbox, wire, self.capacity)

    def anycast_soon(self, queue: str, body: Any) -> Any:
        """Send `body` to one consumer of `queue`. The reply is its inbox, WAITING or FULL."""
        return self.anycast_packed(queue, pack(body))

    def anycast_packed(
        self, queue: str, packed: bytes, capacity: int | None = None, expiry: float = 0
    ) -> Any:
        """Like `anycast_soon`, for a packed body.

        At most `capacity` messages wait, each for `expiry` seconds at most (0: without limit).
        """
        wire = Message(Kind.ANYCAST, queue, packed).encode()
        waiting = self.queue_capacity if capacity is None else capacity
        milliseconds = int(expiry * 1000)
        return self._call(queue, "anycast", queue, wire, self.capacity, waiting, milliseconds)

    def multicast_soon(self, group: str, body: Any) -> Any:
        """Send `body` to each process with members. The reply is [reached, full, absent …]."""
        return self.multicast_packed(group, pack(body))

    def multicast_packed(self, group: str, packed: bytes, confirm_to: Address | None = None) -> Any:
        """Like `multicast_soon`, for a packed body.

        Each process that it reaches confirms it to `confirm_to` when all its members have room.
        """
        if confirm_to is None:
            wire = Message(Kind.MULTICAST, group, packed).encode()
        else:
            wire = Message(Kind.CONFIRMED, f"{confirm_to} {group}", packed).encode()
        return self._call(group, "multicast", group, wire, self.capacity)

    def send_confirm(self, sender: Address) -> None:
        """Confirm to a sender that all members here have room for another message."""
        if not self.closing:
            self.unicast_packed(sender, b"\xc0")

    # -- receiving

    def consume(self, queue: str, receiver: Callable[[bytes], None], room: int) -> Any:
        """Receive from `queue`: at most `room` messages for which `task_done` was not called."""
        self.start()
        self.router.consume(queue, receiver, room)
        return self._call(queue, "consume", queue, room, self.capacity)

    def task_done(self, queue: str) -> Any:
        """Report that a message of the queue has been processed: room for one more."""
        self.router.task_done(queue)
        return None if self.closing else self._call(queue, "consume", queue, 1, self.capacity)

    def stop_consuming(self, queue: str) -> Any:
        """Stop receiving from `queue`."""
        self.router.stop_consuming(queue)
        return self._call(queue, "stop_consuming", queue)

    def join(self, group: str, local: str) -> Any:
        """Make a receiver a member of a group. Return a reply, or None if no call is needed."""
        self.start()
        return self._call(group, "join", group) if self.router.join(group, local) else None

    def leave(self, group: str, local: str) -> Any:
        """End a membership. Return a reply, or None if no call is needed."""
        last = self.router.leave(group, local)
        return self._call(group, "leave", group) if last and not self.closing else None

    def remove(self, local: str) -> None:
        """Remove a receiver, and leave its groups."""
        for group in self.router.remove(local):
            if not self.closing:
                self._call(group, "leave", group)

    # -- other calls

    def probe(self, inbox: str) -> Any:
        """Probe a process that may be dead.

        The reply is OK (connected), ABSENT (not connected; evicted if it stays so for `GRACE`, and
        all processes are notified) or GONE.
        """
        self.start()
        return self.connections[self.host_index(inbox)].session.probe(inbox)

    def ping(self) -> list[Any]:
        """Ping all hosts. A reply fails with `Unreachable` if its host does not answer in time."""
        return self._call_all("hello")

    def status(self) -> list[Any]:
        """Ask each host for its figures; see `status.py`."""
        return self._call_all("status")

    def flush(self) -> list[Any]:
        """Delete all groups and messages, for all processes with this prefix. For tests."""
        return self._call_all("flush")

    # -- closing

    def _deregister(self) -> list[Any]:
        """Deregister from all hosts that are connected, as the last call to each."""
        self.closing = True
        ready = [connection for connection in self.connections if connection.session.ready]
        return [connection.session.call("deregister") for connection in ready]

    def abort(self) -> None:
        """Close all connections without deregistering, as a crash would; fail all waiting calls."""
        self.closing = self.closed = True
        for connection in self.connections:
            connection.stop()
            connection.session.fail_all(Closed("this crossbar has been closed"))
            connection.cancel_timers()

    def abandon(self) -> None:
        """Mark the client closed without any I/O: its loop or its process is no longer ours."""
        self.closing = self.closed = True


def raise_if_full(reply: Any, destination: str) -> None:
    """Raise `Full` if a reply says that the destination had no room."""
    if reply == b"FULL":
        raise Full(f"{destination} is full")


# -- forks

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@cache
def _register_fork_hook() -> None:
    os.register_at_fork(after_in_child=_close_all_inherited)


def _close_all_inherited() -> None:
    """Close a forked child's copies of its parent's connections.

    The child must not use them. It must not keep them open either: Redis would take the parent for
    alive as long as its children are.
    """
    for client in list(_clients):
        client.abandon()
        for connection in client.connections:
            connection.close_inherited()


def close_descriptor(descriptor: int) -> None:
    """Close this process's copy of a connection.

    The number stays in use until its owner closes it, too: it refers to /dev/null meanwhile, so
    that the owner does not close another file that got the same number.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


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
