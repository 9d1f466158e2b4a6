"""`python -m bench.floor`: the cost of waking the members of a group, without a channel layer.

A layer that fulfils Channels' contract on asyncio must give each member its own dictionary and wake
its task. This program does only that, with the members and messages of `layers.py`: once with an
`asyncio.Queue` per member, and once with a bare future per member, the minimum on asyncio. The
difference to this is the cost of a layer itself.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

MEMBERS, LINES = 500, 400
MESSAGE = {"type": "line", "text": "x" * 100}


class Queues:
    """One queue per member."""

    def __init__(self) -> None:
        self.queues = [asyncio.Queue[Any]() for _ in range(MEMBERS)]

    def send(self) -> None:
        for queue in self.queues:
            queue.put_nowait(MESSAGE.copy())

    async def receive(self, member: int) -> Any:
        return await self.queues[member].get()


class Futures:
    """One future per member, created for each message."""

    def __init__(self) -> None:
        self.futures: list[Any] = [None] * MEMBERS

    def send(self) -> None:
        for future in self.futures:
            future.set_result(MESSAGE.copy())

    async def receive(self, member: int) -> Any:
        self.futures[member] = future = asyncio.get_running_loop().create_future()
        return await future


async def measure(layer: Queues | Futures) -> float:
    """Return the CPU time per delivered message, in microseconds."""
    received = 0

    async def listen(member: int) -> None:
        nonlocal received
        while True:
            await layer.receive(member)
            received += 1

    tasks = [asyncio.create_task(listen(member)) for member in range(MEMBERS)]
    await asyncio.sleep(0)
    since = time.process_time()
    for line in range(1, LINES + 1):
        layer.send()
        while received < line * MEMBERS:
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
