"""A channel in the process that receives from it: a bounded buffer, and the waiting receivers.

    put ──► messages ──► get_nowait, get             full: dropped and counted
               │
               └─ at most half full: the callbacks of `when_room` are called

This is the second of two levels of capacity. A channel that nothing reads drops its own messages
here, so it does not fill the inbox of its whole process. Messages older than the layer's `expiry`
are dropped when they are taken out.

All channels that a message is for share one `ReceivedMessage`, so it is decrypted and unpacked once
per process, whatever the number of members.

No I/O; asyncio is used for its futures. Read next: `channels/layer.py`.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from gredis.channels.encryption import Cipher
from gredis.drivers import runs_on_gevent
from gredis.messages import unpack
from gredis.router import Router

ChannelMessage = dict[str, Any]

IMMUTABLE = frozenset({str, bytes, int, float, bool, type(None)})
"""Types whose values receivers may share, because none can change what another one gets."""


class ReceivedMessage:
    """A packed body, and the time it was sent, in milliseconds of our clock."""

    __slots__ = ("__weakref__", "_cipher", "_decoded", "age_on_arrival", "body", "sent_at")

    def __init__(self, body: bytes, sent_at: int) -> None:
        self.body = body
        self.sent_at = sent_at
        self.age_on_arrival = _now() - sent_at
        self._cipher: Cipher | None = None  # by which `_decoded` was decrypted
        self._decoded: ChannelMessage | bytes = b""

    def decode(self, cipher: Cipher) -> ChannelMessage:
        """Return the message, for one receiver to own. Raises `DecryptionFailed`."""
        if self._cipher is not cipher:
            self._decoded = cipher.decrypt(self.body)
            self._cipher = cipher
        if isinstance(self._decoded, dict):
            return self._decoded.copy()
        message: ChannelMessage = unpack(self._decoded)
        if all(type(value) in IMMUTABLE for value in message.values()):
            # A copy of a flat dictionary is cheaper than unpacking again for the next member.
            self._decoded = message
            return message.copy()
        return message


class MessageCache:
    """Returns the same `ReceivedMessage` for all channels that one body is put into."""

    def __init__(self) -> None:
        self._last: Callable[[], ReceivedMessage | None] = lambda: None

    def get(self, body: bytes, sent_at: int) -> ReceivedMessage:
        """Return the message of a body that is being delivered."""
        # Delivery to all members happens in one go, with the same bytes object.
        received = self._last()
        if received is None or received.body is not body:
            received = ReceivedMessage(body, sent_at)
            self._last = weakref.ref(received)
        return received


class Channel:
    """The messages received for one channel, and the calls of `receive` that wait for one.

    `capacity`: messages. `expiry`: seconds. `router`: its `sent_at` is read while a message is put.
    `cache`: shared by all channels. `on_drop`: called with the channel's name for each message
    dropped. `report_losses`: whether receivers are woken when messages were lost. `owner`: the task
    that made the channel, if any.
    """

    def __init__(
        self,
        name: str,
        *,
        capacity: int,
        expiry: float,
        router: Router,
        cache: MessageCache,
        on_drop: Callable[[str], None],
        report_losses: bool = False,
        owner: asyncio.Task[Any] | None = None,
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.expiry = expiry
        self.messages: deque[ReceivedMessage] = deque()
        self.waiting: deque[asyncio.Future[ReceivedMessage | None]] = deque()
        self.reserved = 0  # messages sent from this process that have not arrived yet
        self.lost = 0
        self.loss_unknown = False
        self.ends_with_owner = False
        self._owner = weakref.ref(owner) if owner is not None else None
        self._router = router
        self._cache = cache
        self._on_drop = on_drop
        self._report_losses = report_losses
        self._notify: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threadsafe: Callable[..., Any] | None = None
        self._room_callbacks: list[Callable[[], None]] = []

    @property
    def owner(self) -> asyncio.Task[Any] | None:
        """The task that made the channel, if it still exists."""
        return self._owner() if self._owner is not None else None

    @property
    def full(self) -> bool:
        """True if a message sent from this process now would find no room."""
        return len(self.messages) + self.reserved >= self.capacity

    # -- delivery

    def put(self, body: bytes) -> None:
        """Append a message, or drop it if the buffer is full (delivery is at most once)."""
        if self.reserved:
            self.reserved -= 1
        if len(self.messages) >= self.capacity:
            self._drop()
            return
        received = self._cache.get(body, self._router.sent_at)
        if self.waiting and self._hand_over(received):
            return
        self.messages.append(received)
        self._wake()

    def _drop(self) -> None:
        self.lost += 1
        self._on_drop(self.name)

    def _hand_over(self, received: ReceivedMessage) -> bool:
        """Give a new message directly to the first waiter, if nothing must come before it."""
        if self._threadsafe is not None or self.messages or self._has_loss_to_report:
            return False
        future = self.waiting[0]
        if future.done() or received.age_on_arrival > 1000 * self.expiry:
            return False
        self.waiting.popleft()
        future.set_result(received)
        return True

    def _wake(self) -> None:
        if self._notify is not None:
            self._notify()
        elif self.waiting:
            if self._threadsafe is None:
                self._serve_waiting()
            else:
                self._threadsafe(self._serve_waiting)

    def _serve_waiting(self) -> None:
        while self.waiting and (self.messages or self._has_loss_to_report):
            future = self.waiting.popleft()
            if future.done():
                continue
            if self._has_loss_to_report:
                future.set_result(None)
            elif (received := self.get_nowait()) is not None:
                future.set_result(received)
            else:
                self.waiting.appendleft(future)

    # -- receiving

    def listen(self, notify: Callable[[], None]) -> None:
        """Call `notify`, which must not block, whenever messages or losses have arrived."""
        self._notify = notify

    def get_nowait(self) -> ReceivedMessage | None:
        """Return the next message that has not expired, or None."""
        while self.messages:
            received = self.messages.popleft()
            if self._room_callbacks and 2 * len(self.messages) <= self.capacity:
                self.release_senders()
            if received.sent_at > _now() - 1000 * self.expiry:
                return received
            self._drop()
        return None

    def get(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[ReceivedMessage | None]:
        """Return a future of the next message, or of None if messages were lost."""
        if loop is not self._loop:
            self._loop = loop
            if runs_on_gevent(loop):
                self._threadsafe = loop.call_soon_threadsafe  # `put` runs in another greenlet
        future: asyncio.Future[ReceivedMessage | None] = loop.create_future()
        self.waiting.append(future)
        return future

    def cancel_get(self, future: asyncio.Future[ReceivedMessage | None]) -> None:
        """Cancel a `get` whose task was cancelled; a message it already has is put back."""
        if not future.done() or future.cancelled():
            if future in self.waiting:
                self.waiting.remove(future)
        elif (received := future.result()) is not None:
            self.messages.appendleft(received)
            self._serve_waiting()

    # -- back-pressure

    def when_room(self, callback: Callable[[], None]) -> bool:
        """Call `callback` once the buffer is at most half full. Return False if it is so now."""
        if 2 * len(self.messages) <= self.capacity:
            return False
        self._room_callbacks.append(callback)
        return True

    def release_senders(self) -> None:
        """Call all callbacks of `when_room`."""
        callbacks, self._room_callbacks = self._room_callbacks, []
        for callback in callbacks:
            callback()

    # -- losses

    def record_loss(self, count: int | None) -> None:
        """Record that messages for this process were lost; `count` is None if unknown."""
        self.reserved = 0
        self.lost += count or 0
        self.loss_unknown |= count is None
        if self._report_losses:
            self._wake()

    @property
    def _has_loss_to_report(self) -> bool:
        return self._report_losses and (self.lost > 0 or self.loss_unknown)

    def take_losses(self) -> int | None:
        """Return the number of messages lost since the last call, None if unknown."""
        lost, unknown, self.lost, self.loss_unknown = self.lost, self.loss_unknown, 0, False
        return None if unknown else lost


def _now() -> int:
    return int(time.monotonic() * 1000)
