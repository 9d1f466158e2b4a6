"""A channel in the process that receives from it: a bounded buffer, and those who wait for one.

    put ──► bodies, each with its age ──► get            full: dropped and counted
                     │
                     └─ below half: tell patient senders that there is room again

This is the second of two levels of capacity: a channel that nobody reads drops its own messages,
here, and does not fill the inbox of its whole process. Messages older than the layer's `expiry` are
dropped when they are taken out.

No I/O; asyncio is used for its futures. Read next: `layer.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gredis.crossbar import Crossbar


class Channel:
    """Messages that have come for one channel, and the calls of `receive` that wait for one.

    `capacity`: messages; `expiry`: seconds; `core`: says, while a message is put, when it was sent;
    `on_drop`: called with the channel's name for each message dropped.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        expiry: float,
        core: Crossbar,
        on_drop: Callable[[str], None],
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.expiry = expiry
        self.bodies: deque[tuple[int, bytes]] = deque()  # with the time they were sent, ms
        self.waiting: deque[asyncio.Future[bytes]] = deque()
        self.notify: Callable[[], None] | None = None
        self.promised = 0  # messages sent from here that have not come yet
        self.lost = 0
        self.loss_unknown = False
        self._core = core
        self._threadsafe: Callable[..., Any] | None = None
        self.on_drop = on_drop
        self._patient: list[Callable[[], None]] = []

    @property
    def full(self) -> bool:
        """Whether there is no room for a message that would be sent now, from this process."""
        return len(self.bodies) + self.promised >= self.capacity

    def put(self, body: bytes) -> None:
        """Take a message; dropped when the buffer is full (delivery is at most once)."""
        if self.promised:
            self.promised -= 1
        if len(self.bodies) >= self.capacity:
            self.lost += 1
            self.on_drop(self.name)
            return
        self.bodies.append((self._core.sent, body))
        if self.notify is not None:
            self.notify()
        elif self.waiting:
            if self._threadsafe is None:
                self._serve()
            else:
                self._threadsafe(self._serve)

    def take(self) -> bytes | None:
        """The next message that is not too old, or None."""
        while self.bodies:
            sent, body = self.bodies.popleft()
            if self._patient and 2 * len(self.bodies) <= self.capacity:
                self.release()
            if sent > _now() - 1000 * self.expiry:
                return body
            self.lost += 1
            self.on_drop(self.name)
        return None

    def _serve(self) -> None:
        while self.waiting and self.bodies:
            future = self.waiting.popleft()
            if not future.done() and (body := self.take()) is not None:
                future.set_result(body)
            elif not future.done():
                self.waiting.appendleft(future)

    async def get(self) -> bytes:
        """The next message; a cancelled call takes none."""
        if not self.waiting and (body := self.take()) is not None:
            return body
        loop = asyncio.get_running_loop()
        if getattr(
            loop, "on_gevent", False
        ):  # messages are put by another greenlet than the loop's
            self._threadsafe = loop.call_soon_threadsafe
        future: asyncio.Future[bytes] = loop.create_future()
        self.waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.bodies.appendleft((_now(), future.result()))
                self._serve()
            elif future in self.waiting:
                self.waiting.remove(future)
            raise

    def when_there_is_room(self, told: Callable[[], None]) -> bool:
        """Call `told` when the buffer is half empty; False when that is so already."""
        if 2 * len(self.bodies) <= self.capacity:
            return False
        self._patient.append(told)
        return True

    def release(self) -> None:
        """Tell all patient senders."""
        patient, self._patient = self._patient, []
        for told in patient:
            told()

    def losses(self) -> int | None:
        """Messages lost since the last time this was asked; None when it is not known how many."""
        lost, unknown, self.lost, self.loss_unknown = self.lost, self.loss_unknown, 0, False
        return None if unknown else lost


def _now() -> int:
    return int(time.monotonic() * 1000)
