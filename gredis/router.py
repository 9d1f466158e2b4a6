"""The router: which receivers, groups and queues one process has, and who gets a message.

*Membership is local.* Only the process that holds the members of a group knows them. Redis (or the
hub) knows just "process P wants group G": it is told when the first member joins and when the last
one leaves. If it loses that knowledge, the process registers again (`registration()`).

This is the core: no I/O, no clock, no waiting. `carriers/` encode its messages for a wire;
`drivers/` wait for what comes back. A receiver is a function that is called with a packed body and
must not block.

Taught in notebooks/07_crossbar.ipynb. Read next: `carriers/redis.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gredis.messages import Kind, Message
from gredis.names import Address, new_inbox, new_local

Receiver = Callable[[bytes], None]
Watcher = Callable[[str], None]
LossWatcher = Callable[[int | None], None]

WhenRoom = Callable[[Callable[[], None]], bool]
"""Takes a callback and returns True if it will call it later, when its receiver has room again.
Returns False if there is room now."""


@dataclass(frozen=True, slots=True)
class Registration:
    """The state of a process that Redis (or the hub) must know."""

    inbox: str
    groups: list[str]
    queues: dict[str, int]


@dataclass(slots=True)
class Counters:
    """Messages received by this process, and what became of them."""

    received: int = 0
    delivered: int = 0
    dropped: int = 0  # no receiver here
    lost: int = 0  # sent while the inbox was full; messages that Redis has lost are not counted


@dataclass(slots=True)
class Queue:
    """A queue that this process consumes from: its receiver, and room for how many messages."""

    receiver: Receiver
    room: int


class Router:
    """The receivers, groups and queues of one process.

    `confirm` is called with the address of a sender once all members that its confirmed multicast
    reached have room for another message (back-pressure).

    While a message is delivered, `sent_at` is the time it was sent, in milliseconds of our clock.
    """

    def __init__(self, confirm: Callable[[Address], None] = lambda sender: None) -> None:
        self.inbox = new_inbox()
        self.counters = Counters()
        self.sent_at = 0
        self._confirm = confirm
        self._locals: dict[str, Receiver] = {}
        self._when_room: dict[str, WhenRoom] = {}
        # Dictionaries with None as values are used as ordered sets: the members of a group get a
        # message in the order in which they joined.
        self._groups: dict[str, dict[str, None]] = {}
        self._joined: dict[str, dict[str, None]] = {}
        self._queues: dict[str, Queue] = {}
        self._watchers: dict[str, dict[Watcher, None]] = {}
        self._loss_watchers: list[LossWatcher] = []

    # -- receivers and groups

    @property
    def locals(self) -> frozenset[str]:
        """The names of all receivers, a snapshot."""
        return frozenset(self._locals)

    def add(
        self, receiver: Receiver, local: str | None = None, when_room: WhenRoom | None = None
    ) -> Address:
        """Add a receiver, called with each body sent to its address or to its groups.

        `when_room`: for receivers with a bounded buffer, so that senders can wait for room.
        """
        address = Address(self.inbox, local or new_local())
        self._locals[address.local] = receiver
        if when_room is not None:
            self._when_room[address.local] = when_room
        return address

    def remove(self, local: str) -> list[str]:
        """Remove a receiver. Return the groups that have lost their last member here."""
        self._locals.pop(local, None)
        self._when_room.pop(local, None)
        left = [group for group in self._joined.get(local, ()) if self._discard(group, local)]
        self._joined.pop(local, None)
        return left

    def join(self, group: str, local: str) -> bool:
        """Make a receiver a member. Return True if it is the first one here: report the group."""
        members = self._groups.setdefault(group, {})
        first = not members
        members[local] = None
        self._joined.setdefault(local, {})[group] = None
        return first

    def leave(self, group: str, local: str) -> bool:
        """End a membership. Return True if it was the last one here: report that, too."""
        joined = self._joined.get(local, {})
        joined.pop(group, None)
        if not joined:
            self._joined.pop(local, None)
        return self._discard(group, local)

    def _discard(self, group: str, local: str) -> bool:
        members = self._groups.get(group)
        if members is None or local not in members:
            return False
        del members[local]
        if members:
            return False
        del self._groups[group]
        return True

    def has_members(self, group: str) -> bool:
        """Return whether the group has a member in this process."""
        return group in self._groups

    # -- queues

    def consume(self, queue: str, receiver: Receiver, room: int) -> None:
        """Receive from a queue: at most `room` messages for which `task_done` was not called."""
        self._queues[queue] = Queue(receiver, room)

    def task_done(self, queue: str) -> None:
        """Record that a message of the queue has been processed: room for one more."""
        if queue in self._queues:
            self._queues[queue].room += 1

    def stop_consuming(self, queue: str) -> None:
        """Stop receiving from a queue."""
        self._queues.pop(queue, None)

    # -- failures

    @property
    def watched(self) -> frozenset[str]:
        """The inboxes of all watched processes, a snapshot."""
        return frozenset(self._watchers)

    def watch(self, inbox: str, watcher: Watcher) -> None:
        """Call `watcher` with the name of the inbox when its process is found dead."""
        self._watchers.setdefault(inbox, {})[watcher] = None

    def unwatch(self, inbox: str, watcher: Watcher) -> None:
        """Stop watching a process."""
        watchers = self._watchers.get(inbox, {})
        watchers.pop(watcher, None)
        if not watchers:
            self._watchers.pop(inbox, None)

    def on_process_gone(self, inbox: str) -> None:
        """Notify the watchers of an inbox, once, that its process is dead."""
        for watcher in self._watchers.pop(inbox, {}):
            watcher(inbox)

    def watch_losses(self, watcher: LossWatcher) -> None:
        """Call `watcher` with the number of messages lost by this process, None if unknown."""
        self._loss_watchers.append(watcher)

    def on_loss(self, count: int | None) -> None:
        """Record that messages for this process were lost, and notify the watchers."""
        self.counters.lost += count or 0
        for watcher in self._loss_watchers:
            watcher(count)

    # -- registration and delivery

    def registration(self, owned: Callable[[str], bool] = lambda name: True) -> Registration:
        """Return what to register after connecting, the first time and every time.

        With several hosts, `owned` tells whether the name of a group or queue belongs to that host.
        """
        queues = {name: queue.room for name, queue in self._queues.items() if owned(name)}
        return Registration(self.inbox, [group for group in self._groups if owned(group)], queues)

    def deliver(self, wire: bytes, sent_at: int = 0) -> None:
        """Pass one encoded message, sent at that time, to its receivers in this process."""
        message = Message.decode(wire)
        self.counters.received += 1
        self.sent_at = sent_at
        if message.kind is Kind.GONE:
            self.on_process_gone(message.name)
        elif message.kind is Kind.FLUSH:
            self._groups.clear()
            self._joined.clear()
        elif message.kind is Kind.CONFIRMED:
            sender, _, group = message.name.partition(" ")
            members = list(self._groups.get(group, ()))
            self._hand_out(message.body, self._receivers_of(members))
            self._confirm_when_room(Address.parse(sender), members)
        else:
            self._hand_out(message.body, self._receivers(message))

    def _hand_out(self, body: bytes, receivers: list[Receiver]) -> None:
        for receiver in receivers:
            receiver(body)
        self.counters.delivered += len(receivers)
        if not receivers:
            self.counters.dropped += 1

    def _receivers(self, message: Message) -> list[Receiver]:
        if message.kind is Kind.MULTICAST:
            return self._receivers_of(self._groups.get(message.name, ()))
        if message.kind is Kind.ANYCAST:
            queue = self._queues.get(message.name)
            if queue is None:
                return []
            queue.room -= 1
            return [queue.receiver]
        receiver = self._locals.get(message.name)
        return [receiver] if receiver is not None else []

    def _receivers_of(self, members: Iterable[str]) -> list[Receiver]:
        return [self._locals[local] for local in members if local in self._locals]

    def _confirm_when_room(self, sender: Address, members: list[str]) -> None:
        """Confirm a message to its sender once all members have room for another one."""
        pending = 1  # this function itself, so that nothing is confirmed before all were asked

        def has_room() -> None:
            nonlocal pending
            pending -= 1
            if not pending:
                self._confirm(sender)

        for local in members:
            when_room = self._when_room.get(local)
            if when_room is not None and when_room(has_room):
                pending += 1
        has_room()
