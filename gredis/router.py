"""The crossbar: what one process knows, and how a message finds its receivers there.

*Local truth*: who is in which group is known by the process that holds the members. The other side
of the wire only knows "this process wants group G", and is told when the first member joins and the
last one leaves; after it has forgotten everything, it is told again (`announcement()`).

This is the core: no I/O, no clock, no waiting. `carriers/` encode what it says for a wire,
`drivers/` wait for what comes back. A receiver is a function that takes a packed body and must not
block.

Taught in notebooks/07_crossbar.ipynb. Read next: `carriers/redis.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gredis.messages import Kind, Message
from gredis.names import Address, new_inbox, new_local

Receiver = Callable[[bytes], None]
Watcher = Callable[[str], None]
LossWatcher = Callable[[int | None], None]
Acknowledge = Callable[[Address, list[str]], None]


@dataclass(frozen=True, slots=True)
class Registration:
    """All that the other side of the wire must know of a process."""

    inbox: str
    groups: list[str]
    queues: dict[str, int]


@dataclass(slots=True)
class Counters:
    """How many messages this process has received, and what became of them."""

    received: int = 0
    delivered: int = 0
    dropped: int = 0  # nobody here was meant
    lost: int = 0  # sent while the inbox was full; those that Redis has forgotten are not known


@dataclass(slots=True)
class Queue:
    """A queue that this process takes from: its receiver, and how many messages it has room for."""

    receiver: Receiver
    room: int


@dataclass(slots=True)
class Router:
    """The receivers, groups and queues of one process.

    `sent_at` is, while messages are delivered, when the present one was sent: milliseconds of our
    clock. `acknowledge` is called with the sender and the members reached when a message
    asks to be told as soon as they all have room for another (back-pressure).
    """

    inbox: str = field(default_factory=new_inbox)
    counters: Counters = field(default_factory=Counters)
    _locals: dict[str, Receiver] = field(default_factory=dict)
    _groups: dict[str, dict[str, None]] = field(default_factory=dict)
    _joined: dict[str, dict[str, None]] = field(default_factory=dict)
    _queues: dict[str, Queue] = field(default_factory=dict)
    _watchers: dict[str, dict[Watcher, None]] = field(default_factory=dict)
    _loss_watchers: list[LossWatcher] = field(default_factory=list)
    sent_at: int = 0
    acknowledge: Acknowledge = lambda sender, members: None

    def add(self, receiver: Receiver, local: str | None = None) -> Address:
        """A new local, called with each body sent to its address or to its groups."""
        address = Address(self.inbox, local or new_local())
        self._locals[address.local] = receiver
        return address

    def has(self, local: str) -> bool:
        """Whether there is such a local."""
        return local in self._locals

    def receiver(self, local: str) -> Receiver | None:
        """The receiver of a local."""
        return self._locals.get(local)

    def remove(self, local: str) -> list[str]:
        """Forget a local; the groups that have lost their last member here."""
        self._locals.pop(local, None)
        left = [group for group in self._joined.get(local, ()) if self._discard(group, local)]
        self._joined.pop(local, None)
        return left

    def join(self, group: str, local: str) -> bool:
        """Make a local a member; True when it is the first one here, to be announced."""
        members = self._groups.setdefault(group, {})
        first = not members
        members[local] = None
        self._joined.setdefault(local, {})[group] = None
        return first

    def leave(self, group: str, local: str) -> bool:
        """End a membership; True when it was the last one here, to be announced."""
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
        """Whether the group has a member here."""
        return group in self._groups

    def consume(self, queue: str, receiver: Receiver, room: int) -> None:
        """Take messages from a queue, at most `room` that have not been given back."""
        self._queues[queue] = Queue(receiver, room)

    def _use_room(self, queue: str) -> None:
        """A message of the queue has come: one place less."""
        if queue in self._queues:
            self._queues[queue].room -= 1

    def task_done(self, queue: str) -> None:
        """What came from the queue has been dealt with: one place more."""
        if queue in self._queues:
            self._queues[queue].room += 1

    def stop_consuming(self, queue: str) -> None:
        """Take from the queue no longer."""
        self._queues.pop(queue, None)

    def watch(self, inbox: str, watcher: Watcher) -> None:
        """Call `watcher` with the inbox's name when its process is found dead."""
        self._watchers.setdefault(inbox, {})[watcher] = None

    def unwatch(self, inbox: str, watcher: Watcher) -> None:
        """Watch no longer."""
        watchers = self._watchers.get(inbox, {})
        watchers.pop(watcher, None)
        if not watchers:
            self._watchers.pop(inbox, None)

    def on_process_gone(self, inbox: str) -> None:
        """Tell the watchers of an inbox that its process is dead."""
        for watcher in self._watchers.pop(inbox, {}):
            watcher(inbox)

    def watch_losses(self, watcher: LossWatcher) -> None:
        """Call `watcher` when messages for this process were lost: how many, None if unknown."""
        self._loss_watchers.append(watcher)

    def on_loss(self, count: int | None) -> None:
        """Messages for this process were lost on their way."""
        self.counters.lost += count or 0
        for watcher in self._loss_watchers:
            watcher(count)

    def registration(self, ours: Callable[[str], bool] = lambda name: True) -> Registration:
        """What to tell the other side after connecting, first and every time.

        `ours` says of a group's or a queue's name whether it belongs to that side, when there are
        several.
        """
        queues = {name: queue.room for name, queue in self._queues.items() if ours(name)}
        return Registration(self.inbox, [group for group in self._groups if ours(group)], queues)

    def deliver(self, wire: bytes, sent: int = 0) -> None:
        """Route one message that has reached this process, `sent` then, to its receivers."""
        message = Message.decode(wire)
        self.counters.received += 1
        self.sent_at = sent
        if message.kind is Kind.GONE:
            self.on_process_gone(message.name)
        elif message.kind is Kind.FLUSH:
            self._groups.clear()
            self._joined.clear()
        elif message.kind is Kind.CONFIRMED:
            sender, _, group = message.name.partition(" ")
            members = list(self._groups.get(group, ()))
            self._hand_out(message.body, self._present(members))
            self.acknowledge(Address.parse(sender), members)
        else:
            self._hand_out(message.body, self._receivers(message))

    def _hand_out(self, body: bytes, receivers: list[Receiver]) -> None:
        for receiver in receivers:
            receiver(body)
        self.counters.delivered += len(receivers)
        if not receivers:
            self.counters.dropped += 1

    def _present(self, members: Iterable[str]) -> list[Receiver]:
        return [self._locals[local] for local in members if local in self._locals]

    def _receivers(self, message: Message) -> list[Receiver]:
        if message.kind is Kind.MULTICAST:
            return self._present(self._groups.get(message.name, ()))
        if message.kind is Kind.ANYCAST:
            self._use_room(message.name)
            queue = self._queues.get(message.name)
            return [queue.receiver] if queue is not None else []
        receiver = self._locals.get(message.name)
        return [receiver] if receiver is not None else []
