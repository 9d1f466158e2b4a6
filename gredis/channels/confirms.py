"""Patience: a sender that waits for full receivers instead of having its message dropped.

The message carries the sender's address. Each process that it reaches answers as soon as all its
members have room for another message; the sender waits for that many answers. One message at a time
is under way per sender, so whatever it sends arrives whole. It costs one small message per process
and `group_send`, none per member.

`ConfirmCounter` is the sender's half, `Confirmer` the receivers'. Read next: `channels/layer.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gredis.channels.channel import Channel
from gredis.names import Address
from gredis.router import Router


class ConfirmCounter:
    """Counts the processes that have told us that they have room."""

    def __init__(self, router: Router, loop: asyncio.AbstractEventLoop) -> None:
        self._router = router
        self._loop = loop
        self._count = 0
        self._wanted: int | None = None
        self._enough: asyncio.Future[None] = loop.create_future()
        self.address = router.add(self._one_more)

    def _one_more(self, body: bytes) -> None:
        self._count += 1
        if self._count == self._wanted:
            self._loop.call_soon_threadsafe(self._done)

    def _done(self) -> None:
        if not self._enough.done():
            self._enough.set_result(None)

    async def by(self, processes: int, seconds: float) -> bool:
        """Wait until so many have told us, so long at most; whether they have."""
        self._wanted = processes
        if self._count >= processes:
            return True
        await asyncio.wait([self._enough], timeout=seconds)
        return self._count >= processes

    def close(self) -> None:
        """Be told no more."""
        self._router.remove(self.address.local)


class Confirmer:
    """Answers waiting senders when the channels they reached have room again.

    `answer` is called with the sender; `find` gives the channel of a local, if it is one.
    """

    def __init__(
        self, answer: Callable[[Address], None], find: Callable[[str], Channel | None]
    ) -> None:
        self._answer = answer
        self._find = find

    def __call__(self, sender: Address, members: list[str]) -> None:
        """A confirmed message has reached these members."""
        full = 1  # ourselves, until we have asked all

        def one_has_room() -> None:
            nonlocal full
            full -= 1
            if not full:
                self._answer(sender)

        for local in members:
            channel = self._find(local)
            if channel is not None and channel.when_room(one_has_room):
                full += 1
        one_has_room()
