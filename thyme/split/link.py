"""A link: all messages between a process with a relay and a process with a worker. No I/O.

Many connections share one link. Entries that are sent within one round of the event loop travel as
one batch, and an event for many connections (a chat line for a room) is in it once:

    [VERSION, sender's endpoint, epoch, receiver's epoch, number, seen,
     [[[connection, …], kind, argument …], …]]

One batch at a time is being posted through gredis; entries that are sent meanwhile are collected
for the next one. So batches grow with the load, order is kept, and a full inbox simply delays the
next batch.

*Two levels of numbering.* gredis numbers messages, and a link numbers batches above that. They
guard against different losses:

*   gredis' numbers belong to one process and Redis. They make sure that a message which is in Redis
    is delivered once, although the connection to Redis is cut in between, and they show how many
    were dropped from a full inbox. But a message that Redis has accepted and then lost (it was
    killed, or has removed the inbox of a process that it took for dead) cannot be fetched again:
    the sender was told OK, and has forgotten it.
*   A link's numbers belong to two endpoints, whatever is in between. Batches are numbered from 1,
    and the sender keeps each until the receiver has confirmed it ("seen", in any of its batches). A
    batch that arrives twice is dropped. When one is missing, the receiver requests all that follow
    the last one it has seen, with a batch that has number 0 and None for its entries.

*Epochs.* A process that was taken for dead may still be alive. Then one side has a link that the
other has closed. So each end of a link has an epoch, which is never used again, and each batch
names the epoch it was sent in and the one it is meant for (0: not known yet). A batch for an end
that no longer exists is answered with a *closing message*: epoch 0, and the epoch that has to
close. Endpoints do that, see `split/endpoint.py`.

Taught in notebooks/09_relay_and_workers.ipynb.
Read next: `split/relay/output.py`.
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gredis.messages import MAX_MESSAGE_BYTES, pack
from thyme.asgi import Event
from thyme.split.wire import EVENT, VERSION

Entry = list[Any]

BATCH_BYTES = 512 * 1024
"""Approximate bytes of one batch: few enough that other processes' messages get a turn."""

ENTRY_BYTES = 32
"""Bytes that an entry counts for if it is not an event."""

MESSAGE_BYTES = MAX_MESSAGE_BYTES - 1024
"""Bytes of a packed batch: what gredis carries, less the name of the receiver."""

SEEN_BATCHES = 32
"""Received batches after which they are confirmed, if no batch of ours does it anyway."""

SEEN_BYTES = 1024 * 1024
"""The same in bytes. This and the windows bound what a sender has to keep."""

FULL_SECONDS = 0.02
"""Pause before a batch is posted again to a process whose inbox is full."""

AWAY_SECONDS = 0.5
"""The same when Redis could not be reached for longer than gredis waits for it."""

_epochs = itertools.count(time.time_ns() // 1000)


class Batch:
    """Entries that are collected for one batch, and their sizes.

    An event for many connections is one entry with all their numbers. An entry may be shared only
    if that keeps the order of events on each of its connections.
    """

    __slots__ = ("_index", "_last", "entries", "size", "sizes")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.sizes: list[int] = []
        self.size = 0
        self._index: dict[Any, list[int]] = {}  # where the entries with a key are
        self._last: dict[int, int] = {}  # where the last entry of a connection is

    def add(self, connection: int, kind: str, *arguments: Any, size: int) -> None:
        """Add an entry for one connection."""
        self._last[connection] = len(self.entries)
        self.entries.append([[connection], kind, *arguments])
        self.sizes.append(size)
        self.size += size

    def add_shared(self, connection: int, key: Any, event: Event, once: Any, size: int) -> None:
        """Add an event that other connections may get, too. Equal events have equal keys."""
        places = self._index.setdefault(key, [])
        # Only an entry behind this connection's last one keeps the connection's order.
        behind = bisect_right(places, self._last.get(connection, -1))
        if behind < len(places):
            place = places[behind]
            entry = self.entries[place]
            if entry[2:] == [event, once]:
                entry[0].append(connection)
                self._last[connection] = place
                return
        places.append(len(self.entries))
        self.add(connection, EVENT, event, once, size=size)


class Link:
    """One end of a link, between the endpoints `local` and `remote`.

    `post(wire)` hands a packed batch to gredis. Its caller then reports the reply: `on_posted()`
    when the batch was accepted, `on_refused()` when it was not, and `flush()` a while after that.
    `call_soon(function)` calls a function at the end of this round of the event loop.
    """

    def __init__(
        self,
        local: str,
        remote: str,
        post: Callable[[bytes], None],
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self.remote = remote
        self.remote_inbox = remote.partition("!")[0]
        self.closed = False
        self.greeted = False  # the other side has said hello for at least one connection
        self.epoch = next(_epochs)
        self.remote_epoch = 0  # not known before their first batch
        self.connections: dict[int, Any] = {}  # what the other side's entries may be about
        self._local = local
        self._post = post
        self._call_soon = call_soon
        self._batch = Batch()
        self._scheduled = False
        self._posting = False
        self._number = 0
        self._unposted: deque[tuple[int, bytes]] = deque()  # the first one may be in flight
        self._unconfirmed: deque[tuple[int, bytes]] = deque()  # posted, and kept
        self._seen = 0
        self._unreported = self._unreported_bytes = 0  # seen, and not confirmed by us
        self._requested = 0

    # -- sending

    def send(self, connection: int, kind: str, *arguments: Any) -> None:
        """Send an entry other than an event, at the end of this round of the event loop."""
        size = ENTRY_BYTES + sum(len(each) for each in arguments if isinstance(each, bytes))
        self._batch.add(connection, kind, *arguments, size=size)
        if not self._scheduled:
            self._schedule()

    def send_event(self, connection: int, event: Event, size: int) -> None:
        """Send an event of `size` bytes to the worker."""
        self._batch.add(connection, EVENT, event, size=size)
        if not self._scheduled:
            self._schedule()

    def send_output(self, connection: int, event: Event, size: int, once: Any) -> None:
        """Send an event of `size` bytes to the relay; `once` is its [stream, number], or None.

        An event that many connections get in the same round travels once.
        """
        key = event.get("text")
        if key is None:
            self._batch.add(connection, EVENT, event, once, size=size)
        else:
            self._batch.add_shared(connection, key, event, once, size)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        self._call_soon(self.flush)

    def flush(self) -> None:
        """Post what has been collected, unless a batch is in flight: then it follows that one."""
        self._scheduled = False
        if self._posting or self.closed:
            return
        if not self._unposted and self._batch.entries:
            self._close_batch()
        if self._unposted:
            self._posting = True
            self._post(self._unposted[0][1])

    def _close_batch(self) -> None:
        batch, self._batch = self._batch, Batch()
        for entries in _portions(batch):
            self._enqueue(entries)

    def _enqueue(self, entries: list[Entry]) -> None:
        """Enqueue entries as one batch, or as several if their real size exceeds a message."""
        wire = self._packed(self._number + 1, entries)
        if len(wire) > MESSAGE_BYTES and len(entries) > 1:
            middle = len(entries) // 2
            self._enqueue(entries[:middle])
            self._enqueue(entries[middle:])
            return
        self._number += 1
        self._unposted.append((self._number, wire))

    def _packed(self, number: int, entries: list[Entry] | None) -> bytes:
        self._unreported = self._unreported_bytes = 0
        header = [VERSION, self._local, self.epoch, self.remote_epoch, number, self._seen]
        return pack([*header, entries])

    def on_posted(self) -> None:
        """The batch in flight is in Redis. Post the next one."""
        self._posting = False
        if self._unposted:
            batch = self._unposted.popleft()
            if batch[0]:
                self._unconfirmed.append(batch)
        self.flush()

    def on_refused(self) -> None:
        """The batch in flight is not in Redis. `flush()` will post it again."""
        self._posting = False

    @property
    def drained(self) -> bool:
        """Return whether everything has been posted."""
        return self.closed or not (self._batch.entries or self._unposted)

    @property
    def unconfirmed(self) -> int:
        """The number of batches that are kept until the other side has seen them."""
        return len(self._unconfirmed)

    # -- receiving

    def receive(
        self, epoch: int, number: int, seen: int, entries: list[Entry] | None, size: int
    ) -> Sequence[Entry]:
        """Process a batch of `size` bytes; return the entries to handle."""
        self.remote_epoch = epoch
        while self._unconfirmed and self._unconfirmed[0][0] <= seen:
            self._unconfirmed.popleft()
        if entries is None:
            self._repeat()
            return ()
        if number <= self._seen:  # a repetition, or a control batch (0)
            return ()
        if number > self._seen + 1:
            self._request_missing()
            return ()
        self._seen = number
        self._confirm(size)
        return entries

    def _confirm(self, size: int) -> None:
        self._unreported += 1
        self._unreported_bytes += size
        if self._unreported >= SEEN_BATCHES or self._unreported_bytes >= SEEN_BYTES:
            self._send_control([])

    def _request_missing(self) -> None:
        """Request all batches after the last one seen, once for each gap."""
        if self._requested != self._seen + 1:
            self._requested = self._seen + 1
            self._send_control(None)

    def recover(self) -> None:
        """Messages were lost, perhaps of this link: request what is missing, and repeat ours."""
        self._requested = 0
        self._request_missing()
        self._repeat()

    def _send_control(self, entries: list[Entry] | None) -> None:
        self._unposted.append((0, self._packed(0, entries)))
        if not self._scheduled:
            self._schedule()

    def _repeat(self) -> None:
        """Post all unconfirmed batches again, before any new one."""
        if not self._unconfirmed:
            return
        waiting = list(self._unposted)
        if self._posting and waiting:
            # The batch in flight must stay first, where `on_posted` expects it. There it comes too
            # early, so the receiver will ignore it: repeat it in its place, if it has a number.
            first, *rest = waiting
            waiting = [first, *self._unconfirmed, *([first] if first[0] else []), *rest]
        else:
            waiting = [*self._unconfirmed, *waiting]
        self._unposted = deque(waiting)
        self._unconfirmed.clear()
        if not self._scheduled:
            self._schedule()


def closing_message(local: str, epoch: int) -> bytes:
    """Return the message by which endpoint `local` closes the other end with this epoch."""
    return pack([VERSION, local, 0, epoch, 0, 0, []])


def _portions(batch: Batch) -> Iterable[list[Entry]]:
    """Return the entries of a batch in portions of about `BATCH_BYTES`."""
    if batch.size <= BATCH_BYTES:
        return [batch.entries]
    portions: list[list[Entry]] = [[]]
    total = 0
    for entry, size in zip(batch.entries, batch.sizes, strict=True):
        if portions[-1] and total + size > BATCH_BYTES:
            portions.append([])
            total = 0
        portions[-1].append(entry)
        total += size
    return portions
