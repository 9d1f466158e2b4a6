"""A link: all that a process with a relay and a worker say to each other. No I/O.

Many connections share one link. What they say within one turn of the hub travels as one batch, and
an event that is meant for many of them (a line of chat in a room) stands in it once:

    [VERSION, sender's desk, run, receiver's run, number, seen,
     [[[connection, …], kind, what …], …]]

One batch at a time is on its way to the crossbar; what comes up meanwhile gathers. So batches grow
with the load, order is kept, and a full inbox simply holds the next one back.

Batches are numbered from 1, and kept until the other side has said ("seen", in any of its batches)
that they came: a batch that comes twice is dropped, one that is missing (Redis has been killed,
say, with letters on their way) is asked for again, with number 0 and no entries.

A process that was taken for dead may come back: then one side has a link that the other has ended.
So each end has a number of its own ("run"), and says with each batch to whose end it speaks (0:
it has not heard it yet). What is meant for an end that is no more is answered with a farewell, run
0, which names the run that has to end, too. Desks do that, see `split/endpoint.py`.

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
from thyme.split.wire import EVENT, VERSION, weigh

Entry = list[Any]

BATCH_BYTES = 512 * 1024
"""About so many bytes travel as one batch: few enough to let others' in between."""

ENTRY_BYTES = 32
"""What an entry counts for that is no event."""

LETTER_BYTES = MAX_MESSAGE_BYTES - 1024
"""Bytes of a packed batch, with room for the name of its receiver."""

SEEN_BATCHES = 32
"""Batches that came before their sender is told so, if we have nothing else to say."""

SEEN_BYTES = 1024 * 1024
"""The same in bytes: what a sender keeps is bounded by this and by the windows."""

FULL_SECONDS = 0.02
"""Pause before a batch is posted again to a process whose inbox is full."""

AWAY_SECONDS = 0.5
"""The same when the crossbar could not be reached for longer than its patience."""

_runs = itertools.count(time.time_ns() // 1000)


class Batch:
    """What gathers. An entry may be shared if all its connections are at that place in order."""

    __slots__ = ("_index", "_last", "entries", "size")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.size = 0
        self._index: dict[Any, list[int]] = {}
        self._last: dict[int, int] = {}

    def add(self, connection: int, kind: str, *what: Any) -> None:
        """Say something on a connection."""
        self._last[connection] = len(self.entries)
        self.entries.append([[connection], kind, *what])
        self.size += _weight(self.entries[-1])

    def add_shared(self, connection: int, key: Any, event: Event, once: Any) -> None:
        """The same for an event that others may get, too; equal events have equal keys."""
        places = self._index.setdefault(key, [])
        # Behind all that was said on this connection so far, or order would be lost.
        behind = bisect_right(places, self._last.get(connection, -1))
        if behind < len(places):
            place = places[behind]
            entry = self.entries[place]
            if entry[2:] == [event, once]:
                entry[0].append(connection)
                self._last[connection] = place
                return
        places.append(len(self.entries))
        self.add(connection, EVENT, event, once)


class Link:
    """One end of a link.

    `post(wire)` hands a packed batch to the crossbar; then call `posted()` when it has been taken,
    or `refused()`, and `flush()` a while later. `soon(function)` calls at the end of this turn.
    """

    def __init__(
        self,
        ours: str,
        theirs: str,
        post: Callable[[bytes], None],
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self.theirs = theirs
        self.inbox = theirs.partition("!")[0]
        self.over = False
        self.known = False  # whether a connection has been taken over it
        self.version = VERSION
        self.run = next(_runs)
        self.their_run = 0  # until they have spoken
        self.connections: dict[int, Any] = {}  # those that the other side may speak of
        self._ours = ours
        self._post = post
        self._soon = soon
        self._batch = Batch()
        self._scheduled = False
        self._posting = False
        self._number = 0
        self._waiting: deque[tuple[int, bytes]] = deque()  # to be posted, the first perhaps is
        self._kept: deque[tuple[int, bytes]] = deque()
        self._seen = 0
        self._untold = self._untold_bytes = 0
        self._asked = 0

    # -- saying

    def say(self, connection: int, kind: str, *what: Any) -> None:
        """Say something on a connection, at the end of this turn."""
        self._batch.add(connection, kind, *what)
        if not self._scheduled:
            self._schedule()

    def send(self, connection: int, event: Event, once: Any) -> None:
        """Send an event; one that goes to many connections at the same time travels once."""
        key = event.get("text")
        if key is None:
            self._batch.add(connection, EVENT, event, once)
        else:
            self._batch.add_shared(connection, key, event, once)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        self._soon(self.flush)

    def flush(self) -> None:
        """Post what has gathered, unless a batch is being posted: then it goes with the next."""
        self._scheduled = False
        if self._posting or self.over:
            return
        if not self._waiting and self._batch.entries:
            self._close_batch()
        if self._waiting:
            self._posting = True
            self._post(self._waiting[0][1])

    def _close_batch(self) -> None:
        batch, self._batch = self._batch, Batch()
        for entries in _portions(batch):
            self._enqueue(entries)

    def _enqueue(self, entries: list[Entry]) -> None:
        """As one batch; as several, should that be more than a letter holds after all."""
        wire = self._packed(self._number + 1, entries)
        if len(wire) > LETTER_BYTES and len(entries) > 1:
            middle = len(entries) // 2
            self._enqueue(entries[:middle])
            self._enqueue(entries[middle:])
            return
        self._number += 1
        self._waiting.append((self._number, wire))

    def _packed(self, number: int, entries: list[Entry] | None) -> bytes:
        self._untold = self._untold_bytes = 0
        return pack([VERSION, self._ours, self.run, self.their_run, number, self._seen, entries])

    def posted(self) -> None:
        """The crossbar has taken the batch."""
        self._posting = False
        if self._waiting:
            batch = self._waiting.popleft()
            if batch[0]:
                self._kept.append(batch)
        self.flush()

    def refused(self) -> None:
        """The crossbar has not taken it: after a while, `flush()` will post it again."""
        self._posting = False

    @property
    def quiet(self) -> bool:
        """Whether all has been posted."""
        return self.over or not (self._batch.entries or self._waiting)

    # -- hearing

    def hear(
        self, run: int, number: int, seen: int, entries: list[Entry] | None, size: int
    ) -> Sequence[Entry]:
        """A batch of `size` bytes has come: its entries to deal with."""
        self.their_run = run
        while self._kept and self._kept[0][0] <= seen:
            self._kept.popleft()
        if entries is None:
            self._say_again()
            return ()
        if number <= self._seen:
            return ()
        if number > self._seen + 1:
            self.ask_again()
            return ()
        self._seen = number
        self._tell_seen(size)
        return entries

    def _tell_seen(self, size: int) -> None:
        self._untold += 1
        self._untold_bytes += size
        if self._untold >= SEEN_BATCHES or self._untold_bytes >= SEEN_BYTES:
            self._control([])

    def ask_again(self) -> None:
        """Something may be missing: ask for all that came after what we have seen."""
        if self._asked != self._seen + 1:
            self._asked = self._seen + 1
            self._control(None)

    def lost(self) -> None:
        """Letters were lost, perhaps of this link: ask, and say again what nobody has seen."""
        self._asked = 0
        self.ask_again()
        self._say_again()

    def _control(self, entries: list[Entry] | None) -> None:
        self._waiting.append((0, self._packed(0, entries)))
        if not self._scheduled:
            self._schedule()

    def _say_again(self) -> None:
        if not self._kept:
            return
        waiting = list(self._waiting)
        if self._posting and waiting:
            # It must stay first, and comes too early: again in its place, if it has one.
            first, *rest = waiting
            waiting = [first, *self._kept, *([first] if first[0] else []), *rest]
        else:
            waiting = [*self._kept, *waiting]
        self._waiting = deque(waiting)
        self._kept.clear()
        if not self._scheduled:
            self._schedule()


def farewell(ours: str, run: int) -> bytes:
    """What a desk of this name says to one that speaks, as `run`, to an end that is no more."""
    return pack([VERSION, ours, 0, run, 0, 0, []])


def _weight(entry: Entry) -> int:
    """Bytes of an entry, about."""
    if entry[1] == EVENT:
        return weigh(entry[2])
    return ENTRY_BYTES + sum(len(what) for what in entry[2:] if isinstance(what, bytes))


def _portions(batch: Batch) -> Iterable[list[Entry]]:
    """The entries of a batch, in portions of about `BATCH_BYTES`."""
    if batch.size <= BATCH_BYTES:
        return [batch.entries]
    portions: list[list[Entry]] = [[]]
    size = 0
    for entry in batch.entries:
        weight = _weight(entry)
        if portions[-1] and size + weight > BATCH_BYTES:
            portions.append([])
            size = 0
        portions[-1].append(entry)
        size += weight
    return portions
