"""One process of the comparison of channel layers, in the environment of its layer.

Arguments: the layer ("gredis", "core" or "pubsub"), the URL of Redis, the number of members. It
reads commands and writes answers, one per line:

                 ► ready      the members have joined the group
    send TEXT    ► sent       a group_send from this process
                 ► received   whenever all its members have received another message
    cpu          ► SECONDS    CPU time used so far

As with consumers, each member has a task that awaits `receive` in a loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

GROUP = "bench"
CAPACITY = 1000


def layer(name: str, url: str) -> Any:
    """Return the channel layer, as Channels would create it from settings."""
    if name == "gredis":
        from gredis import GredisChannelLayer

        return GredisChannelLayer(url, capacity=CAPACITY)
    if name == "core":
        from channels_redis.core import RedisChannelLayer

        return RedisChannelLayer(hosts=[url], capacity=CAPACITY)
    from channels_redis.pubsub import RedisPubSubChannelLayer

    return RedisPubSubChannelLayer(hosts=[url])


def answer(text: object) -> None:
    """Write one line."""
    print(text, flush=True)


class Members:
    """The members in this process."""

    def __init__(self, layer: Any, number: int) -> None:
        self.layer = layer
        self.number = number
        self.received = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        for _ in range(self.number):
            channel = await self.layer.new_channel()
            await self.layer.group_add(GROUP, channel)
            self.tasks.append(asyncio.create_task(self._listen(channel)))

    async def _listen(self, channel: str) -> None:
        while True:
            await self.layer.receive(channel)
            self.received += 1
            if self.received % self.number == 0:
                answer("received")


async def main(name: str, url: str, number: str) -> None:
    channels = layer(name, url)
    await Members(channels, int(number)).join()
    loop, commands = asyncio.get_running_loop(), asyncio.Queue[str]()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(commands.put_nowait, line)

    threading.Thread(target=read, daemon=True).start()
    answer("ready")
    while True:
        command, _, text = (await commands.get()).rstrip("\n").partition(" ")
        if command == "send":
            await channels.group_send(GROUP, {"type": "line", "text": text})
            answer("sent")
        else:
            answer(time.process_time())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
