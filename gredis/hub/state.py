"""The hub's state: the scripts of the Redis carrier, in Python, for the TCP carrier. No I/O.

A hub holds inboxes, groups and queues in memory. When it exits all are lost, and processes register
again with its successor, as after a restart of Redis. It exists to answer by measurement why Redis
and not TCP sockets; beyond one machine, use Redis.

`Hub` has a `Namespace` for each prefix. Its methods have the names of the scripts and return the
same replies; the comments in the scripts explain them. `HubConnection` takes the bytes of one
process, and calls a function with the bytes to write.

Taught in notebooks/12_redis_or_sockets.ipynb. Read next: `carriers/tcp.py`, `hub/server.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from gredis.carriers.base import ERROR, MESSAGE, REPLY
from gredis.carriers.tcp import VERSION, Frames, frame
from gredis.errors import GredisError
from gredis.messages import Kind, Message

EVICTED = 0
"""Stands in for the number of a registration: the process was evicted and does not know it yet."""

RETENTION_SECONDS = 60
"""The messages of a dead process are kept this long, in case it is alive after all."""

Push = Callable[[int, int, bytes], None]
"""Sends a message to a process: its number, the milliseconds when it was sent, the message."""


@dataclass(slots=True)
class Inbox:
    """The messages of one process, its numbers, and where it is registered.

    `seq`: number of its last message. `call`: number of its last call. `registration`: number of
    the registration that reported the last loss. `absent`: since when it has not been connected.
    """

    messages: deque[tuple[int, int, bytes]] = field(default_factory=deque)
    seq: int = 0
    dropped: int = 0
    call: int = 0
    push: Push | None = None
    groups: set[str] = field(default_factory=set)
    queues: set[str] = field(default_factory=set)
    expires_at: int | None = None
    absent: int | None = None
    registration: int | None = None


class Namespace:
    """The inboxes, groups and queues under one prefix. `now` returns milliseconds."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.inboxes: dict[str, Inbox] = {}
        self.known: dict[str, None] = {}
        self.groups: dict[str, dict[str, None]] = {}
        self.queues: dict[str, dict[str, int]] = {}  # room by inbox
        self.waiting: dict[str, deque[tuple[int, int, bytes]]] = {}  # sent, expires (0: never)

    # -- shared by all calls

    def call(self, me: str, number: int, script: str, arguments: list[Any]) -> Any:
        """Carry out one call and return its reply. Raises `GredisError` for an unknown script."""
        if script not in SCRIPTS:
            raise GredisError(f"unknown script {script!r}")
        if 0 < number <= self._inbox(me).call:  # it came before, on an older connection
            return b"DONE"
        reply = SCRIPTS[script](self, me, *arguments)
        if number and script != "deregister":
            self._inbox(me).call = number
        return reply

    def _inbox(self, inbox: str) -> Inbox:
        found = self.inboxes.get(inbox)
        if found is None:
            self._expire_inboxes()
            found = self.inboxes[inbox] = Inbox()
        if found.push is None and found.absent is None:
            found.absent = self.now()
        if inbox not in self.known and found.push is None:
            found.expires_at = self.now() + RETENTION_SECONDS * 1000
        return found

    def _expire_inboxes(self) -> None:
        now = self.now()
        for name, inbox in list(self.inboxes.items()):
            if inbox.expires_at is not None and inbox.expires_at <= now:
                del self.inboxes[name]

    def _present(self, inbox: str) -> bool:
        return inbox in self.inboxes and self.inboxes[inbox].push is not None

    def _append(self, inbox: str, sent: int, message: bytes) -> bool:
        found = self._inbox(inbox)
        found.seq += 1
        found.messages.append((found.seq, sent, message))
        if found.push is None:
            return False
        found.push(found.seq, sent, message)
        return True

    def _store(self, inbox: str, sent: int, message: bytes, capacity: int) -> bytes:
        if len(self._inbox(inbox).messages) >= capacity:
            return b"FULL"
        return b"OK" if self._append(inbox, sent, message) else b"ABSENT"

    def _evict(self, inbox: str) -> None:
        found = self._inbox(inbox)
        for group in found.groups:
            _discard(self.groups, group, inbox)
        for queue in found.queues:
            _discard(self.queues, queue, inbox)
        found.groups.clear()
        found.queues.clear()
        self.known.pop(inbox, None)
        found.registration = EVICTED
        found.expires_at = self.now() + RETENTION_SECONDS * 1000

    # -- connections

    def connect(self, me: str, push: Push) -> None:
        """Record the connection that proves that this process is alive."""
        self._inbox(me).push = push

    def disconnect(self, me: str, push: Push) -> None:
        """Record that this connection is lost."""
        found = self.inboxes.get(me)
        if found is not None and found.push == push:
            found.push = None
            found.absent = self.now()
            if me not in self.known:
                found.expires_at = self.now() + RETENTION_SECONDS * 1000

    # -- the scripts

    def hello(self, me: str, version: int = VERSION) -> bytes:
        if version != VERSION:
            raise GredisError(f"protocol version {version} not supported; use {VERSION}")
        return b"OK"

    def register(self, me: str, packed: bytes, last: int, answered: int = 0) -> list[Any]:
        wanted = msgpack.unpackb(packed)
        self.known[me] = None
        mine = self._inbox(me)
        mine.expires_at = mine.absent = None
        for group in wanted["groups"]:
            self.join(me, group)
        restarted = mine.seq < last
        if restarted or mine.registration is None:
            # This hub counts from 0: renumber what has arrived since it started.
            mine.registration = EVICTED
            found, mine.messages, mine.seq = mine.messages, deque(), last
            for _, sent, message in found:
                mine.seq += 1
                mine.messages.append((mine.seq, sent, message))
        room = Counter(wanted["queues"])
        for call, queue, gained in wanted.get("takes", ()):
            if call > mine.call:  # it is still to come, and gains this room then
                room[queue] -= gained
        if mine.registration == EVICTED:
            mine.registration = answered + 1
            for seq, _, message in mine.messages:
                if seq > last and message.startswith(Kind.ANYCAST.value):
                    room[Message.decode(message).name] -= 1
        for queue in wanted["queues"]:
            self.queues.setdefault(queue, {}).setdefault(me, room[queue])
            mine.queues.add(queue)
        absent = [other.encode() for other in self.known if not self._present(other)]
        forgotten = restarted or 0 < answered < mine.registration
        return [int(forgotten), mine.call, self.now(), *absent]

    def anycast(
        self, me: str, queue: str, message: bytes, capacity: int, room: int, expiry: int
    ) -> bytes:
        consumers, sent = self.queues.get(queue, {}), self.now()
        for inbox in sorted(consumers, key=consumers.__getitem__, reverse=True):
            if consumers[inbox] <= 0:
                break
            if self._present(inbox) and self._store(inbox, sent, message, capacity) != b"FULL":
                consumers[inbox] -= 1
                return inbox.encode()
        waiting = self.waiting.setdefault(queue, deque())
        while waiting and 0 < waiting[0][1] <= sent:
            waiting.popleft()
        if len(waiting) >= room:
            return b"FULL"
        waiting.append((sent, sent + expiry if expiry else 0, message))
        return b"WAITING"

    def probe(self, me: str, inbox: str, grace: int) -> bytes:
        if self._present(inbox):
            return b"OK"
        if inbox in self.known:
            if self.now() - (self._inbox(inbox).absent or 0) < grace:
                return b"ABSENT"
            self._evict(inbox)
            for other in self.known:
                self._append(other, self.now(), Message(Kind.GONE, inbox, b"").encode())
        return b"GONE"

    def deregister(self, me: str) -> bytes:
        self._evict(me)
        del self.inboxes[me]
        return b"OK"

    def fetch(self, me: str, last: int, count: int, size: int) -> list[Any]:
        reply: list[Any] = [0]
        for message in self._inbox(me).messages:
            if message[0] > last:
                reply += message
                size -= len(message[2])
                if size < 0 or len(reply) > 3 * count:
                    reply[0] = 1
                    break
        return reply

    def flush(self, me: str) -> bytes:
        self.groups.clear()
        self.waiting.clear()
        for inbox in self.known:
            self._inbox(inbox).groups.clear()
            self._inbox(inbox).messages.clear()
            self._append(inbox, self.now(), Message(Kind.FLUSH, "", b"").encode())
        return b"OK"

    def join(self, me: str, group: str) -> bytes:
        self.groups.setdefault(group, {})[me] = None
        self._inbox(me).groups.add(group)
        return b"OK"

    def leave(self, me: str, group: str) -> bytes:
        _discard(self.groups, group, me)
        self._inbox(me).groups.discard(group)
        return b"OK"

    def multicast(self, me: str, group: str, message: bytes, capacity: int) -> list[Any]:
        reply: list[Any] = [0, 0]
        sent = self.now()
        for inbox in self.groups.get(group, ()):
            stored = self._store(inbox, sent, message, capacity)
            if stored == b"FULL":
                self._inbox(inbox).seq += 1
                self._inbox(inbox).dropped += 1
            reply[stored == b"FULL"] += 1
            if not self._present(inbox):
                reply.append(inbox.encode())
        return reply

    def status(self, me: str) -> list[Any]:
        now = self.now()
        inboxes = []
        for name in self.known:
            found = self._inbox(name)
            age = now - found.messages[0][1] if found.messages else 0
            kept = len(found.messages)
            row = [name.encode(), int(self._present(name)), kept, age, found.seq, found.dropped]
            inboxes.append(row)
        queues = []
        for name in self.queues.keys() | self.waiting.keys():
            consumers, waiting = self.queues.get(name, {}), self.waiting.get(name, ())
            age = now - waiting[0][0] if waiting else 0
            row = [name.encode(), len(consumers), sum(consumers.values()), len(waiting), age]
            queues.append(row)
        groups = [[name.encode(), len(members)] for name, members in self.groups.items()]
        return [inboxes, queues, groups]

    def consume(self, me: str, queue: str, gained: int, capacity: int) -> int:
        consumers = self.queues.setdefault(queue, {})
        consumers[me] = consumers.get(me, 0) + gained
        self._inbox(me).queues.add(queue)
        waiting, moved = self.waiting.get(queue), 0
        while waiting and consumers[me] > 0:
            sent, expires, message = waiting[0]
            if not 0 < expires <= self.now():
                if self._store(me, sent, message, capacity) == b"FULL":
                    break
                consumers[me] -= 1
                moved += 1
            waiting.popleft()
        if not waiting:
            self.waiting.pop(queue, None)
        return moved

    def trim(self, me: str, last: int) -> int:
        mine = self._inbox(me)
        while mine.messages and mine.messages[0][0] <= last:
            mine.messages.popleft()
        return mine.seq

    def unicast(self, me: str, inbox: str, message: bytes, capacity: int) -> bytes:
        return self._store(inbox, self.now(), message, capacity)

    def stop_consuming(self, me: str, queue: str) -> bytes:
        _discard(self.queues, queue, me)
        self._inbox(me).queues.discard(queue)
        return b"OK"


SCRIPTS = {
    name: function
    for name, function in vars(Namespace).items()
    if not name.startswith("_") and name not in {"call", "connect", "disconnect"}
}
"""The calls that a process can make, by name."""


class Hub:
    """All namespaces, by prefix. `now` returns milliseconds."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._namespaces: dict[str, Namespace] = {}

    def namespace(self, prefix: str) -> Namespace:
        """Return the namespace of a prefix, made on first use."""
        if prefix not in self._namespaces:
            self._namespaces[prefix] = Namespace(self._now)
        return self._namespaces[prefix]


class HubConnection:
    """One connection of one process. `write` is called with bytes for it and must not block."""

    def __init__(self, hub: Hub, write: Callable[[bytes], None]) -> None:
        self._hub = hub
        self._write = write
        self._frames = Frames()
        self._owner: tuple[Namespace, str] | None = None

    def receive(self, received: bytes) -> None:
        """Carry out the calls in these bytes. Raises `GredisError` if they are not calls."""
        for call in self._frames.feed(received):
            try:
                prefix, inbox, number, script, *arguments = call
            except (TypeError, ValueError) as error:
                raise GredisError(f"expected a call, got {call!r}") from error
            self._call(prefix, inbox, number, script, arguments)

    def _call(
        self, prefix: str, inbox: str, number: int, script: str, arguments: list[Any]
    ) -> None:
        namespace = self._hub.namespace(prefix)
        if script == "hello":
            self._owner = namespace, inbox
            namespace.connect(inbox, self._push)
        try:
            reply = namespace.call(inbox, number, script, arguments)
        except (GredisError, TypeError) as error:
            self._write(frame([ERROR, str(error)]))
        else:
            self._write(frame([REPLY, reply]))

    def _push(self, number: int, sent: int, message: bytes) -> None:
        self._write(frame([MESSAGE, number, sent, message]))

    def close(self) -> None:
        """Record that the connection is lost."""
        if self._owner is not None:
            namespace, inbox = self._owner
            namespace.disconnect(inbox, self._push)


def _discard(groups: dict[str, Any], name: str, inbox: str) -> None:
    """Remove an inbox from a group or queue, and that itself once it is empty."""
    members = groups.get(name)
    if members is not None:
        members.pop(inbox, None)
        if not members:
            del groups[name]
