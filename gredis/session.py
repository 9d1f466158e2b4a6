"""The session: what one process has asked of Redis, and what is still owed. No I/O.

Both drivers use it, so that policy stands in one place: which commands go out next, whose reply has
come, what to send again after a connection was cut, who seems to be dead, from where to read on.

A driver does, for the connection for commands:

1. connect, send `handshake()` one by one and read the answers; send `announce()`, read the answer
   and give it to `announced()`;
2. write `commands()` whenever there are some, and give each answer to `answered()` or `refused()`;
3. when the connection is lost, begin again at 1.

And for the connection of the inbox: send `read()`, give the answer to `received()`, send `trim()`
when that says so; when the connection is lost, connect and go on.

Read next: `drivers/gevent.py`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from gredis.carriers.redis import TRIM_AFTER, Command, RedisCarrier, entries
from gredis.crossbar import Crossbar
from gredis.errors import GredisError, RedisRefused

log = logging.getLogger("gredis")

PATIENCE = 10.0
"""Seconds a caller waits for Redis to come back before it is told that it has not."""

PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Seconds between attempts to connect again; the last one is repeated."""

GRACE = 0.5
"""Seconds a process may be cut off before it is taken for dead: more than it needs to come back."""


class Reply(Protocol):
    """Where a reply goes: gevent's `AsyncResult` and asyncio's `Future` both are one."""

    def done(self) -> bool:
        """Whether it has one."""

    def set_result(self, result: Any, /) -> None:
        """Give it the reply."""

    def set_exception(self, error: Any, /) -> None:
        """Give it an error instead."""


class Call:
    """One call of a script: its number, and where its reply goes."""

    __slots__ = ("arguments", "number", "reply", "script")

    def __init__(self, number: int, reply: Reply, script: str, arguments: tuple[Any, ...]) -> None:
        self.number = number
        self.reply = reply
        self.script = script
        self.arguments = arguments

    def settle(self, result: Any) -> None:
        """Hand over the reply, unless nobody waits for it any more."""
        if not self.reply.done():
            self.reply.set_result(result)

    def fail(self, error: Exception) -> None:
        """Hand over an error."""
        if not self.reply.done():
            self.reply.set_exception(error)


class Session:
    """The calls and the reading of one process.

    `new_reply` makes the driver's kind of future; `suspect` is called with the inbox of a process
    that seems to be dead: ask again (`confirm`) after `GRACE`.
    """

    def __init__(
        self,
        core: Crossbar,
        carrier: RedisCarrier,
        new_reply: Callable[[], Any],
        suspect: Callable[[str], None],
    ) -> None:
        self.core = core
        self.carrier = carrier
        self._new_reply = new_reply
        self._suspect = suspect
        self._numbers = 0
        self._unsent: deque[Call] = deque()
        self._unanswered: deque[Call] = deque()
        self._last = b"0-0"
        self._untrimmed = 0

    # -- calls

    def call(self, script: str, *arguments: Any) -> Any:
        """Have a script called soon; its reply, to be waited for as the driver does."""
        self._numbers += 1
        reply = self._new_reply()
        self._unsent.append(Call(self._numbers, reply, script, arguments))
        return reply

    def commands(self) -> list[Command]:
        """What to write now: all calls that have gathered."""
        calls = list(self._unsent)
        self._unsent.clear()
        self._unanswered.extend(calls)
        return [self.carrier.call(call.script, call.number, *call.arguments) for call in calls]

    def answered(self, reply: Any) -> None:
        """A reply has come: it belongs to the oldest call without one."""
        call = self._unanswered.popleft()
        call.settle(reply)
        if call.script == "unicast" and reply == b"ABSENT":
            self._suspect(call.arguments[0])
        elif call.script == "multicast":
            for inbox in reply[2:]:
                self._suspect(inbox.decode())

    def refused(self, error: Exception) -> None:
        """An error has come instead of a reply."""
        call = self._unanswered.popleft()
        refusal = RedisRefused(f"Redis refused {call.script!r}: {error}")
        refusal.__cause__ = error
        call.fail(refusal)

    def fail_all(self, error: GredisError) -> None:
        """End all waiting: there will be no replies."""
        for call in [*self._unanswered, *self._unsent]:
            call.fail(error)
        self._unanswered.clear()
        self._unsent.clear()

    # -- connecting

    def handshake(self) -> Iterator[Command]:
        """What to send first; the answer to SUBSCRIBE is a push, which redis-py sets aside."""
        return self.carrier.handshake()

    def announce(self) -> Command:
        """All that this process wants, to be sent after the handshake."""
        return self.carrier.announce(self.core.announcement())

    def announced(self, reply: Any) -> bool:
        """Take up where the last connection ended.

        Calls that Redis says were carried out are answered as well as can be known, the others go
        out again. True when Redis did not know us any more: read the inbox from its beginning, by
        connecting it again.
        """
        new, carried_out, *absent = reply
        again = list(self._unanswered)
        self._unanswered.clear()
        for call in again:
            if call.number <= carried_out:
                call.settle([0, 0] if call.script == "multicast" else b"OK")
        self._unsent.extendleft(call for call in reversed(again) if call.number > carried_out)
        for queue in self.core.announcement().queues:  # something may wait there
            self.call(*self.carrier.take(queue, 0))
        for inbox in absent:
            self._suspect(inbox.decode())
        forgotten = bool(new) and self._last != b"0-0"
        if forgotten:
            log.warning("Redis had forgotten this process: announced again")
            self._last = b"0-0"
        return forgotten

    # -- the inbox

    def read(self) -> Command:
        """The read to send next; it blocks until a letter comes."""
        return self.carrier.read(self._last)

    def received(self, reply: Any) -> bool:
        """Deliver what has come; True when it is time to `trim()`."""
        batch = entries(reply)
        for number, wire in batch:
            self._last = number
            try:
                self.core.deliver(wire)
            except Exception:
                log.exception("a letter could not be delivered")
        self._untrimmed += len(batch)
        return self._untrimmed >= TRIM_AFTER

    def trim(self) -> Command:
        """Free the letters that have been read."""
        self._untrimmed = 0
        return self.carrier.trim(self._last)


def pauses() -> Iterator[float]:
    """Seconds to wait before each attempt to connect."""
    yield from PAUSES
    while True:
        yield PAUSES[-1]


def shown(url: str) -> str:
    """A URL without its password, for messages."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url
