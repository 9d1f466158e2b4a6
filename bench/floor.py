"""`python -m bench.floor`: what waking a member costs when no layer is there at all.

A layer that keeps Channels' contract on asyncio hands each member a dictionary of its own and wakes
its task. Here that is all that is done, members and texts as in `layers.py`: by an `asyncio.Queue`
for each, and by one bare future for each, which is the least that asyncio can do. What a layer
costs more than that is the layer's own.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

MEMBERS, LINES = 500, 400
MESSAGE = {"type": "line", "text": "x" * 100}


class Queues:
    """A queue for each member."""

    def __init__(self) -> None:
        self.queues = [asyncio.Queue[Any]() for _ in range(MEMBERS)]

    def send(self) -> None:
        for queue in self.queues:
            queue.put_nowait(MESSAGE.copy())

    async def receive(self, member: int) -> Any:
        return await self.queues[member].get()


class Futures:
    """A future for each member, made anew each time."""

    def __init__(self) -> None:
        self.futures: list[Any] = [None] * MEMBERS

    def send(self) -> None:
        for future in self.futures:
            future.set_result(MESSAGE.copy())

    async def receive(self, member: int) -> Any:
        self.futures[member] = future = asyncio.get_running_loop().create_future()
        return await future


async def measure(layer: Queues | Futures) -> float:
    """Microseconds of CPU per message delivered."""
    heard = 0

    async def listen(member: int) -> None:
        nonlocal heard
        while True:
            await layer.receive(member)
            heard += 1

    tasks = [asyncio.create_task(listen(member)) for member in range(MEMBERS)]
    await asyncio.sleep(0)
    since = time.process_time()
    for line in range(1, LINES + 1):
        layer.send()
        while heard < line * MEMBERS:
            await asyncio.sleep(0)
    used = time.process_time() - since
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return used / (MEMBERS * LINES) * 1e6


if __name__ == "__main__":
    for kind in (Queues, Futures):
        best = min(asyncio.run(measure(kind())) for _ in range(3))
        print(
            f"{kind.__name__.lower():8} {best:.2f} µs, {1e6 / best:,.0f} delivered per CPU second"
        )
