"""Confirms: a sender can wait for full receivers, instead of having its message dropped.

As publisher confirms in RabbitMQ, but for room. The message carries the sender's address. Each
process that it reaches sends a confirm as soon as all its members have room for another message;
the sender waits for as many confirms as processes were reached. A sender has one message under way
at a time, so everything it sends arrives. The cost is one small message per process and
`group_send`, none per member.

This is the sender's half. The receivers' half is `Router.deliver` with `Channel.when_room`.
Read next: `channels/layer.py`.
"""

from __future__ import annotations

import asyncio

from gredis.router import Router


class ConfirmCounter:
    """Counts the processes that have confirmed one message. `close()` it when done."""

    def __init__(self, router: Router, loop: asyncio.AbstractEventLoop) -> None:
        self._router = router
        self._loop = loop
        self._count = 0
        self._expected: int | None = None
        self._enough: asyncio.Future[None] = loop.create_future()
        self.address = router.add(self._on_confirm)

    def _on_confirm(self, body: bytes) -> None:
        self._count += 1
        if self._count == self._expected:
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self._enough.done():
            self._enough.set_result(None)

    async def wait_for(self, processes: int, seconds: float) -> bool:
        """Wait until so many have confirmed, for that time at most. Return whether they have."""
        self._expected = processes
        if self._count >= processes:
            return True
        await asyncio.wait([self._enough], timeout=seconds)
        return self._count >= processes

    def close(self) -> None:
        """Stop counting."""
        self._router.remove(self.address.local)
