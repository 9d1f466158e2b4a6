"""The session: the calls of one process to one host, and the messages it gets from there. No I/O.

Both drivers use it, so the policy is in one place: which bytes to send next, which reply belongs to
which call, which messages are new, what to send again after a connection was cut, and which
processes to probe.

A driver connects and reports it (`connected()`), passes on what it receives (`receive()`), writes
`to_send()` whenever `wake` is called, and reports that the connection is lost (`disconnected()`).
The order on the wire:

    handshake ►  register ►  fetch ►  calls ►         ◄ replies, in order   ◄ messages, at any time

Two levels of numbering make sure that nothing accepted is lost or repeated when a connection is
cut, in both directions:

*Messages* are numbered per receiving inbox, by the host, without gaps. The session remembers the
last number it has seen. So it ignores a message that comes twice, asks for everything later after a
reconnect (`fetch`), and knows from a gap how many were dropped because the inbox was full (a full
multicast uses up a number). While it is catching up, pushed messages are ignored: the fetch returns
them, too, and in order. Every `TRIM_AFTER` messages it lets the host free what it has seen.

*Calls* are numbered per sending process, by the session. The host remembers the number of the last
call that it has carried out, and the registration returns it. After a cut the session therefore
knows of each unanswered call whether it was carried out (its reply is lost, so `LOST_REPLIES`
stands in) or must be sent again. A call may even arrive twice, late on the old connection and again
on the new one: the host carries out only numbers above the last one, and replies DONE otherwise.
Calls of the session itself (fetch, trim, register) have number 0. They are not counted, because
repeating them is harmless, and a new connection makes them anew.

The third number is that of the registration: the host may have evicted this process, or lost its
state, while it was away. `register.lua` describes how a process learns that exactly once.

Read next: `client.py`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from gredis.carriers.base import ERROR, MESSAGE, Carrier, Decoder, Incoming
from gredis.errors import GredisError, RedisRefused
from gredis.messages import pack
from gredis.router import Router

log = logging.getLogger("gredis")

PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Seconds between attempts to reconnect; the last one is repeated."""

GRACE = 0.5
"""Seconds a process may be disconnected before it is evicted: longer than a reconnect takes."""

TIMEOUT_SECONDS = 10.0
"""A caller waits this long for a host that is away, before it gets `Unreachable`."""

FETCH_MESSAGES = 512
"""Messages per fetch: enough to catch up quickly, few enough to let other callers run between."""

FETCH_BYTES = 1024 * 1024
"""Approximate bytes of messages per fetch; at least one message is fetched."""

TRIM_AFTER = 256
"""Messages seen before the host is told to free them: one command for that many messages."""

LOST_REPLIES: dict[str, Any] = {"multicast": [0, 0], "anycast": b"WAITING", "consume": 0}
"""Stand-ins for the replies of calls that were carried out, but whose real reply was lost. All
others are OK."""

WRITE_BYTES = 256 * 1024
"""Approximate bytes of calls per write, so that the host begins to answer while more are sent."""

ANY_CAPACITY = 1_000_000
"""Capacity of our own inbox when we ask for messages that may have waited while we were away."""

TRANSIENT = ("LOADING", "READONLY", "MASTERDOWN", "NOSCRIPT")
"""Errors of a Redis that was just started, replaced or flushed: reconnect and continue."""


class Call:
    """One call: its number, and the future for its reply (None for the session's own calls)."""

    __slots__ = ("arguments", "number", "reply", "script")

    def __init__(self, number: int, reply: Any, script: str, arguments: tuple[Any, ...]) -> None:
        self.number = number
        self.reply = reply
        self.script = script
        self.arguments = arguments

    def settle(self, result: Any) -> None:
        """Set the reply, unless the caller has stopped waiting."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(result)

    def fail(self, error: Exception) -> None:
        """Set an error, unless the caller has stopped waiting."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)


class Session:
    """The calls and messages of one process at one host.

    `new_reply` makes the driver's kind of future. `wake` is called when there is something to
    write. `on_absent` is called with the inbox of a process that is not connected: `probe` it
    after `GRACE`. `owned` tells whether a name belongs to this host. `capacity` is that of an
    inbox. `now` returns milliseconds of our clock.
    """

    def __init__(
        self,
        router: Router,
        carrier: Carrier,
        *,
        new_reply: Callable[[], Any],
        wake: Callable[[], None],
        on_absent: Callable[[str], None],
        owned: Callable[[str], bool] = lambda name: True,
        capacity: int = 10_000,
        now: Callable[[], int] = lambda: 0,
    ) -> None:
        self.router = router
        self.carrier = carrier
        self.ready = False
        self._new_reply = new_reply
        self._wake = wake
        self._on_absent = on_absent
        self._owned = owned
        self._now = now
        self._clock_offset = 0  # milliseconds that the host's clock is ahead of ours
        self._trim_after = max(1, min(TRIM_AFTER, capacity // 2))
        self._last_call = 0
        self._unsent: deque[Call] = deque()
        self._unanswered: deque[Call] = deque()
        self._handshake = b""
        self._handshake_replies = 0  # still to come
        self._decoder: Decoder | None = None
        self._last_message = 0
        self._registrations = 0  # answered so far
        self._untrimmed = 0
        self._catching_up = False

    # -- calls

    def call(self, script: str, *arguments: Any) -> Any:
        """Queue a call of a script. Return the future of its reply."""
        self._last_call += 1
        reply = self._new_reply()
        self._unsent.append(Call(self._last_call, reply, script, arguments))
        self._wake()
        return reply

    def _call_uncounted(self, script: str, *arguments: Any) -> None:
        """Queue a call of the session itself, ahead of all others."""
        self._unsent.appendleft(Call(0, None, script, arguments))

    @property
    def has_pending_calls(self) -> bool:
        """True while a caller waits for a reply."""
        return bool(self._unsent or self._unanswered)

    def to_send(self) -> bytes:
        """Return the bytes to write now: the handshake, or all queued calls in one piece.

        Calls are coalesced: all that were made since the last write share one write, and so one
        system call and mostly one TCP segment. None of them waits for others to come. Beyond
        `WRITE_BYTES` the rest is left for the next call of this method.
        """
        if self._handshake or not self.ready:
            handshake, self._handshake = self._handshake, b""
            return handshake
        pieces, size = [], 0
        while self._unsent and size < WRITE_BYTES:
            call = self._unsent.popleft()
            self._unanswered.append(call)
            command = self.carrier.call(call.script, call.number, *call.arguments)
            pieces.append(self.carrier.encode([command]))
            size += len(pieces[-1])
        return b"".join(pieces)

    def fail_all(self, error: GredisError) -> None:
        """Fail all pending calls; replies that come later are ignored."""
        for call in [*self._unanswered, *self._unsent]:
            call.fail(error)
        self._unsent.clear()

    def probe(self, inbox: str) -> Any:
        """Ask whether a process that was absent `GRACE` seconds ago is dead: OK, ABSENT or GONE."""
        # 900 and not 1000 ms per second: the host counts in whole milliseconds, our timer does not.
        return self.call("probe", inbox, int(900 * GRACE))

    # -- the connection

    def connected(self) -> None:
        """Start the handshake on a new connection."""
        commands = self.carrier.handshake()
        self._handshake_replies = self.carrier.count_replies(commands) + 1
        self._decoder = self.carrier.decoder()
        wanted = self.router.registration(self._owned)
        # Room gained by unanswered calls is part of `queues` already. The host may or may not have
        # added it, so it gets these calls to subtract those that it is still going to carry out.
        takes = [
            (call.number, *call.arguments[:2])
            for call in [*self._unanswered, *self._unsent]
            if call.script == "consume" and call.number and not call.reply.done()
        ]
        packed = pack({"groups": wanted.groups, "queues": wanted.queues, "takes": takes})
        register = ("register", 0, packed, self._last_message, self._registrations)
        commands.append(self.carrier.call(*register))
        self._handshake = self.carrier.encode(commands)
        self._catching_up = True
        self._wake()

    def disconnected(self) -> None:
        """Record that the connection is lost. Counted calls are kept for the next one."""
        self.ready = False
        self._handshake = b""
        self._decoder = None
        self._unsent = deque(call for call in self._unsent if call.number)

    def receive(self, received: bytes) -> None:
        """Process received bytes.

        Raises `RedisRefused` if the host rejects the handshake, and `ConnectionError` if it is not
        ready at the moment. The driver then closes the connection and tries again.
        """
        if self._decoder is None:
            return
        for incoming in self._decoder.feed(received):
            if incoming[0] is ERROR and incoming[1].startswith(TRANSIENT):
                raise ConnectionResetError(incoming[1])
            if incoming[0] is MESSAGE:
                if not self._catching_up:
                    self._on_message(*incoming[1])
            elif self._handshake_replies:
                self._on_handshake_reply(incoming)
            else:
                self._on_reply(incoming)
        if self._untrimmed >= self._trim_after:
            self._untrimmed = 0
            self._call_uncounted("trim", self._last_message)
            self._wake()

    def _on_handshake_reply(self, incoming: Incoming) -> None:
        kind, value = incoming
        if kind is ERROR:
            raise RedisRefused(f"the server refused the handshake: {value}")
        self._handshake_replies -= 1
        if not self._handshake_replies:
            self._on_registered(*value)

    def _on_registered(self, forgotten: int, carried_out: int, clock: int, *absent: bytes) -> None:
        """Resume after a reconnect.

        Calls that were carried out get the best reply that can be known; the others are sent again.
        """
        self._clock_offset = clock - self._now()
        self._registrations += 1
        again = [
            call for call in self._unanswered if call.number > carried_out and not call.reply.done()
        ]
        for call in self._unanswered:
            if 0 < call.number <= carried_out:
                call.settle(LOST_REPLIES.get(call.script, b"OK"))
        self._unanswered.clear()
        self._unsent.extendleft(reversed(again))
        for queue in self.router.registration(self._owned).queues:
            # Messages may have waited there since we were registered: gain no room, but get those.
            self._call_uncounted("consume", queue, 0, ANY_CAPACITY)
        self._fetch()
        self.ready = True
        if forgotten:
            log.warning("Redis lost this process's registration; messages may have been lost")
            self.router.on_loss(None)
        for inbox in absent:
            self._on_absent(inbox.decode())
        self._wake()

    def _on_reply(self, incoming: Incoming) -> None:
        """Match a reply with the oldest unanswered call."""
        kind, value = incoming
        call = self._unanswered.popleft()
        if kind is ERROR:
            call.fail(RedisRefused(f"the server refused {call.script!r}: {value}"))
            return
        if value == b"DONE":  # it was carried out when it came the first time
            call.settle(LOST_REPLIES.get(call.script, b"OK"))
            return
        call.settle(value)
        follow_up = self._FOLLOW_UPS.get(call.script)
        if follow_up is not None:
            follow_up(self, call, value)

    def _after_unicast(self, call: Call, reply: Any) -> None:
        if reply == b"ABSENT":
            self._on_absent(call.arguments[0])

    def _after_multicast(self, call: Call, reply: Any) -> None:
        for inbox in reply[2:]:
            self._on_absent(inbox.decode())

    def _after_probe(self, call: Call, reply: Any) -> None:
        if reply == b"GONE":
            self.router.on_process_gone(call.arguments[0])
        elif reply == b"ABSENT":  # it reconnected in between, and is absent again
            self._on_absent(call.arguments[0])

    # -- messages

    def _fetch(self) -> None:
        self._call_uncounted("fetch", self._last_message, FETCH_MESSAGES, FETCH_BYTES)

    def _after_fetch(self, call: Call, reply: Any) -> None:
        more, *messages = reply
        for start in range(0, len(messages), 3):
            self._on_message(*messages[start : start + 3])
        if more:
            self._fetch()
            self._wake()
        else:
            self._catching_up = False

    def _after_trim(self, call: Call, reply: Any) -> None:
        # Replies and pushes arrive in one order. A number that was used before this reply was made
        # and has not come by now belongs to a dropped message.
        if not self._catching_up and reply > self._last_message:
            self.router.on_loss(reply - self._last_message)
            self._last_message = reply

    def _on_message(self, number: int, sent: int, wire: bytes) -> None:
        missing = number - self._last_message - 1
        if missing < 0:
            return  # seen before
        self._last_message = number
        self._untrimmed += 1
        if missing:
            self.router.on_loss(missing)
        try:
            self.router.deliver(wire, sent - self._clock_offset)
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
    """Yield the seconds to wait before each attempt to connect."""
    yield from PAUSES
    while True:
        yield PAUSES[-1]
