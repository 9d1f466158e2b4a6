"""The session: what one process has asked of one host, and what is still owed. No I/O.

Both drivers use it, so that policy stands in one place: which bytes go out next, whose reply has
come, which messages are new, what to send again after a connection was cut, who seems to be dead.

A driver connects and then says so (`connected()`); hands over what it receives (`receive()`);
writes `to_send()` whenever `wake` is called; and says that the connection is lost
(`disconnected()`). What goes over the wire:

    handshake ►  announce ►  fetch ►  calls ►            ◄ replies, in order   ◄ messages, any time

*Announce* says all that this process wants, each time. *Fetch* asks for messages that were missed;
until they have come, pushed messages are ignored: they are among those. Messages are numbered, so
none is delivered twice, and a gap says how many were lost because the inbox was full. Calls are
numbered, too: what the other side says was carried out before the cut is not sent again.

Read next: `client.py`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from gredis.carriers.base import ERROR, MESSAGE, Carrier, Incoming
from gredis.errors import GredisError, RedisRefused
from gredis.messages import pack
from gredis.router import Router

log = logging.getLogger("gredis")

PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Seconds between attempts to connect again; the last one is repeated."""

GRACE = 0.5
"""Seconds a process may be cut off before it is taken for dead: more than it needs to come back."""

FETCH_BATCH = 512
"""Messages fetched at once: enough to catch up quickly, few enough to let others run in between."""

FETCH_BYTES = 1024 * 1024
"""About so many bytes of messages are fetched at once, at least one message."""

TRIM_AFTER = 256
"""Messages seen before the other side is told to free them: one command for so many messages."""

LOST_REPLIES: dict[str, Any] = {"multicast": [0, 0], "anycast": b"WAITING", "consume": 0}
"""Replies to calls that were carried out although their real reply was lost; else OK."""

WRITE_BYTES = 256 * 1024
"""Calls are gathered up to about so many bytes at once, so that the other side begins to answer."""


TRANSIENT = ("LOADING", "READONLY", "MASTERDOWN", "NOSCRIPT")
"""Errors of a Redis that has just been started, replaced or flushed: connect again and go on."""


class Call:
    """One call: its number, and where its reply goes (nowhere, when it is the session's own)."""

    __slots__ = ("arguments", "number", "reply", "script")

    def __init__(self, number: int, reply: Any, script: str, arguments: tuple[Any, ...]) -> None:
        self.number = number
        self.reply = reply
        self.script = script
        self.arguments = arguments

    def settle(self, result: Any) -> None:
        """Hand over the reply, unless nobody waits for it any more."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(result)

    def fail(self, error: Exception) -> None:
        """Hand over an error."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)


class Session:
    """The calls and messages of one process, at one host.

    `new_reply` makes the driver's kind of future; `wake` is called when there is something to
    write; `suspect` with the inbox of a process that seems to be dead: `confirm` it after `GRACE`;
    `ours` says of a name whether this host is in charge of it; `capacity` is that of an inbox;
    `now` gives milliseconds of our clock.
    """

    def __init__(
        self,
        router: Router,
        carrier: Carrier,
        *,
        new_reply: Callable[[], Any],
        wake: Callable[[], None],
        suspect: Callable[[str], None],
        ours: Callable[[str], bool] = lambda name: True,
        capacity: int = 10_000,
        now: Callable[[], int] = lambda: 0,
    ) -> None:
        self.router = router
        self.carrier = carrier
        self.ready = False
        self._new_reply = new_reply
        self._wake = wake
        self._schedule_probe = suspect
        self._ours = ours
        self._now = now
        self._ahead = 0  # milliseconds that the other side's clock is ahead of ours
        self._trim_after = max(1, min(TRIM_AFTER, capacity // 2))
        self._numbers = 0
        self._unsent: deque[Call] = deque()
        self._unanswered: deque[Call] = deque()
        self._greetings = 0
        self._greeting = b""
        self._decoder: Any = None
        self._last = 0
        self._told = 0  # announcements that have been answered
        self._untrimmed = 0
        self._catching_up = False

    # -- calls

    def call(self, script: str, *arguments: Any) -> Any:
        """Have a script called soon; its reply, to be waited for as the driver does."""
        self._numbers += 1
        reply = self._new_reply()
        self._unsent.append(Call(self._numbers, reply, script, arguments))
        self._wake()
        return reply

    def _call_ourselves(self, script: str, *arguments: Any) -> None:
        """A call that nobody waits for and that a cut connection makes pointless."""
        self._unsent.appendleft(Call(0, None, script, arguments))

    @property
    def has_pending_calls(self) -> bool:
        """Whether somebody waits for a reply."""
        return bool(self._unsent or self._unanswered)

    def to_send(self) -> bytes:
        """What to write now: the greeting, or calls that have gathered."""
        if self._greeting or not self.ready:
            greeting, self._greeting = self._greeting, b""
            return greeting
        pieces, size = [], 0
        while self._unsent and size < WRITE_BYTES:
            call = self._unsent.popleft()
            self._unanswered.append(call)
            command = self.carrier.call(call.script, call.number, *call.arguments)
            pieces.append(self.carrier.encode([command]))
            size += len(pieces[-1])
        return b"".join(pieces)

    def fail_all(self, error: GredisError) -> None:
        """End all waiting; replies that come later reach nobody."""
        for call in [*self._unanswered, *self._unsent]:
            call.fail(error)
        self._unsent.clear()

    def probe(self, inbox: str) -> Any:
        """Ask whether a suspect, `GRACE` seconds after it was one, is dead: OK, ABSENT or GONE."""
        # Clocks tick in milliseconds, timers do not.
        return self.call("probe", inbox, int(900 * GRACE))

    # -- the connection

    def connected(self) -> None:
        """There is a connection: greet."""
        commands = self.carrier.handshake()
        self._greetings = self.carrier.count_replies(commands) + 1
        self._decoder = self.carrier.decoder()
        wanted = self.router.registration(self._ours)
        # Their room is counted in `queues` already, and may have been added there or not.
        takes = [
            (call.number, *call.arguments[:2])
            for call in [*self._unanswered, *self._unsent]
            if call.script == "consume" and call.number and not call.reply.done()
        ]
        packed = pack({"groups": wanted.groups, "queues": wanted.queues, "takes": takes})
        commands.append(self.carrier.call("register", 0, packed, self._last, self._told))
        self._greeting = self.carrier.encode(commands)
        self._catching_up = True
        self._wake()

    def disconnected(self) -> None:
        """The connection is lost: nothing comes any more, nothing can be sent."""
        self.ready = False
        self._greeting = b""
        self._decoder = None
        self._unsent = deque(call for call in self._unsent if call.number)

    def receive(self, received: bytes) -> None:
        """Deal with bytes that have come.

        Raises `RedisRefused` when the other side does not want us, and `ConnectionError` when it
        is not ready at the moment: close the connection.
        """
        for incoming in self._decoder.feed(received):
            if incoming[0] is ERROR and incoming[1].startswith(TRANSIENT):
                raise ConnectionResetError(incoming[1])
            if incoming[0] is MESSAGE:
                if not self._catching_up:
                    self._letter(*incoming[1])
            elif self._greetings:
                self._greeted(incoming)
            else:
                self._answered(incoming)
        if self._untrimmed >= self._trim_after:
            self._untrimmed = 0
            self._call_ourselves("trim", self._last)
            self._wake()

    def _greeted(self, incoming: Incoming) -> None:
        kind, value = incoming
        if kind is ERROR:
            raise RedisRefused(f"the other side of the crossbar refused to talk: {value}")
        self._greetings -= 1
        if not self._greetings:
            self._announced(*value)

    def _announced(self, forgotten: int, carried_out: int, clock: int, *absent: bytes) -> None:
        """Take up where the last connection ended.

        Calls that were carried out are answered as well as can be known, the others go out again.
        """
        self._ahead = clock - self._now()
        self._told += 1
        again = [
            call for call in self._unanswered if call.number > carried_out and not call.reply.done()
        ]
        for call in self._unanswered:
            if 0 < call.number <= carried_out:
                call.settle(LOST_REPLIES.get(call.script, b"OK"))
        self._unanswered.clear()
        self._unsent.extendleft(reversed(again))
        for queue in self.router.registration(self._ours).queues:  # something may wait there
            self._call_ourselves("consume", queue, 0, 1_000_000)
        self._fetch()
        self.ready = True
        if forgotten:
            log.warning("the other side of the crossbar had forgotten this process for a while")
            self.router.on_loss(None)
        for inbox in absent:
            self._schedule_probe(inbox.decode())
        self._wake()

    def _answered(self, incoming: Incoming) -> None:
        """A reply has come: it belongs to the oldest call without one."""
        kind, value = incoming
        call = self._unanswered.popleft()
        if kind is ERROR:
            call.fail(RedisRefused(f"{call.script!r} was refused: {value}"))
            return
        if value == b"DONE":
            call.settle(LOST_REPLIES.get(call.script, b"OK"))
            return
        call.settle(value)
        follow_up = self._FOLLOW_UPS.get(call.script)
        if follow_up is not None:
            follow_up(self, call, value)

    def _after_unicast(self, call: Call, reply: Any) -> None:
        if reply == b"ABSENT":
            self._schedule_probe(call.arguments[0])

    def _after_multicast(self, call: Call, reply: Any) -> None:
        for inbox in reply[2:]:
            self._schedule_probe(inbox.decode())

    def _after_probe(self, call: Call, reply: Any) -> None:
        if reply == b"GONE":
            self.router.on_process_gone(call.arguments[0])
        elif reply == b"ABSENT":  # it was there for a moment in between
            self._schedule_probe(call.arguments[0])

    # -- messages

    def _fetch(self) -> None:
        self._call_ourselves("fetch", self._last, FETCH_BATCH, FETCH_BYTES)

    def _after_fetch(self, call: Call, reply: Any) -> None:
        more, *messages = reply
        for place in range(0, len(messages), 3):
            self._letter(*messages[place : place + 3])
        if more:
            self._fetch()
            self._wake()
        else:
            self._catching_up = False

    def _after_trim(self, call: Call, reply: Any) -> None:
        # Replies and messages come in one order: what has not come by now will not come.
        if not self._catching_up and reply > self._last:
            self.router.on_loss(reply - self._last)
            self._last = reply

    def _letter(self, number: int, sent: int, wire: bytes) -> None:
        missing = number - self._last - 1
        if missing < 0:
            return
        self._last = number
        self._untrimmed += 1
        if missing:
            self.router.on_loss(missing)
        try:
            self.router.deliver(wire, sent - self._ahead)
        except Exception:
            log.exception("a message could not be delivered")

    _FOLLOW_UPS: ClassVar[dict[str, Callable[..., None]]] = {
        "unicast": _after_unicast,
        "multicast": _after_multicast,
        "probe": _after_probe,
        "fetch": _after_fetch,
        "trim": _after_trim,
    }


def pauses() -> Iterator[float]:
    """Seconds to wait before each attempt to connect."""
    yield from PAUSES
    while True:
        yield PAUSES[-1]
