"""A channel in the process that receives from it: a bounded buffer, and those who wait for one.

    put ──► posts, each with its age ──► take, wait      full: dropped and counted
                     │
                     └─ below half: tell waiting senders that there is room again

This is the second of two levels of capacity: a channel that nobody reads drops its own messages,
here, and does not fill the inbox of its whole process. Messages older than the layer's `expiry` are
dropped when they are taken out.

A `ReceivedMessage` is a message that has come, shared by all channels that it is for: it is
decrypted and unpacked once, whatever the number of members.

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
from gredis.messages import unpack
from gredis.router import Router

Message = dict[str, Any]

UNCHANGEABLE = frozenset({str, bytes, int, float, bool, type(None)})
"""Types whose values may be shared: nobody can change what another receives."""


class ReceivedMessage:
    """A packed message and when it was sent, in milliseconds of our clock."""

    __slots__ = ("__weakref__", "_plain", "_seal", "age", "body", "sent")

    def __init__(self, body: bytes, sent: int) -> None:
        self.body = body
        self.sent = sent
        self.age = _now() - sent  # when it came
        self._seal: Cipher | None = None
        self._plain: Message | bytes = b""

    def decode(self, seal: Cipher) -> Message:
        """The message, for its receiver to do with as it likes; raises `DecryptionFailed`."""
        if self._seal is not seal:
            self._plain = seal.decrypt(self.body)
            self._seal = seal
        if isinstance(self._plain, dict):
            return self._plain.copy()
        message: Message = unpack(self._plain)
        if all(type(value) in UNCHANGEABLE for value in message.values()):
            self._plain = message
            return message.copy()
        return message


class MessageCache:
    """Makes posts: one for all channels that the same message is put into."""

    def __init__(self) -> None:
        self._last: Callable[[], ReceivedMessage | None] = lambda: None

    def get(self, body: bytes, sent: int) -> ReceivedMessage:
        """The post of a message that is delivered at the moment."""
        post = self._last()
        if post is None or post.body is not body:
            post = ReceivedMessage(body, sent)
            self._last = weakref.ref(post)
        return post


class Channel:
    """Messages that have come for one channel, and the calls of `receive` that wait for one.

    `capacity`: messages; `expiry`: seconds; `core`: says, while a message is put, when it was sent;
    `posts`: makes what is kept of it; `on_drop`: called with the channel's name for each message
    dropped; `tells`: whether receivers are woken when messages were lost.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        expiry: float,
        router: Router,
        posts: MessageCache,
        on_drop: Callable[[str], None],
        tells: bool = False,
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.expiry = expiry
        self.posts: deque[ReceivedMessage] = deque()
        self.waiting: deque[asyncio.Future[ReceivedMessage | None]] = deque()
        self.notify: Callable[[], None] | None = None
        self.promised = 0  # messages sent from here that have not come yet
        self.lost = 0
        self.loss_unknown = False
        self.owner: Callable[[], asyncio.Task[Any] | None] = lambda: None
        self.ends_with_owner = False
        self._router = router
        self._posts = posts
        self._tells = tells
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threadsafe: Callable[..., Any] | None = None
        self.on_drop = on_drop
        self._patient: list[Callable[[], None]] = []

    @property
    def full(self) -> bool:
        """Whether there is no room for a message that would be sent now, from this process."""
        return len(self.posts) + self.promised >= self.capacity

    def put(self, body: bytes) -> None:
        """Take a message; dropped when the buffer is full (delivery is at most once)."""
        if self.promised:
            self.promised -= 1
        if len(self.posts) >= self.capacity:
            self.lost += 1
            self.on_drop(self.name)
            return
        post = self._posts.get(body, self._router.sent_at)
        if self.waiting and self._hand_over(post):
            return
        self.posts.append(post)
        self._wake()

    def _hand_over(self, post: ReceivedMessage) -> bool:
        """Give a message that has just come to the one who waits; not if there is more to it."""
        if self._threadsafe is not None or self.posts or self._loss_to_tell:
            return False
        future = self.waiting[0]
        if future.done() or post.age > 1000 * self.expiry:
            return False
        self.waiting.popleft()
        future.set_result(post)
        return True

    def _wake(self) -> None:
        if self.notify is not None:
            self.notify()
        elif self.waiting:
            if self._threadsafe is None:
                self._serve()
            else:
                self._threadsafe(self._serve)

    def get_nowait(self) -> ReceivedMessage | None:
        """The next message that is not too old, or None."""
        while self.posts:
            post = self.posts.popleft()
            if self._patient and 2 * len(self.posts) <= self.capacity:
                self.release()
            if post.sent > _now() - 1000 * self.expiry:
                return post
            self.lost += 1
            self.on_drop(self.name)
        return None

    def _serve(self) -> None:
        while self.waiting and (self.posts or self._loss_to_tell):
            future = self.waiting.popleft()
            if future.done():
                continue
            if self._loss_to_tell:
                future.set_result(None)
            elif (post := self.get_nowait()) is not None:
                future.set_result(post)
            else:
                self.waiting.appendleft(future)

    def wait(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[ReceivedMessage | None]:
        """To be awaited: the next message; None when messages were lost."""
        if loop is not self._loop:
            self._loop = loop
            if getattr(loop, "on_gevent", False):
                self._threadsafe = loop.call_soon_threadsafe  # another greenlet puts messages
        future: asyncio.Future[ReceivedMessage | None] = loop.create_future()
        self.waiting.append(future)
        return future

    def cancel_get(self, future: asyncio.Future[ReceivedMessage | None]) -> None:
        """Who awaited it was cancelled, and takes no message."""
        if not future.done() or future.cancelled():
            if future in self.waiting:
                self.waiting.remove(future)
        elif (post := future.result()) is not None:
            self.posts.appendleft(post)
            self._serve()

    def when_room(self, told: Callable[[], None]) -> bool:
        """Call `told` when the buffer is half empty; False when that is so already."""
        if 2 * len(self.posts) <= self.capacity:
            return False
        self._patient.append(told)
        return True

    def release(self) -> None:
        """Tell all waiting senders."""
        callbacks, self._patient = self._patient, []
        for told in callbacks:
            told()

    def on_loss(self, count: int | None) -> None:
        """Messages for this process were lost: how many, None when that is not known."""
        self.promised = 0
        self.lost += count or 0
        self.loss_unknown |= count is None
        if self._tells:
            self._wake()

    @property
    def _loss_to_tell(self) -> bool:
        return self._tells and (self.lost > 0 or self.loss_unknown)

    def losses(self) -> int | None:
        """Messages lost since the last time this was asked; None when it is not known how many."""
        lost, unknown, self.lost, self.loss_unknown = self.lost, self.loss_unknown, 0, False
        return None if unknown else lost


def _now() -> int:
    return int(time.monotonic() * 1000)
