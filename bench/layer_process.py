"""One process of the channel layers' comparison, in the environment of its layer.

Arguments: the layer ("gredis", "core" or "pubsub"), Redis's URL, members. It speaks lines:

    ready                     the members are in the group
    send TEXT    ► sent       a group_send from this process
    (nothing)    ► heard      each time that all its members have received one more message
    cpu          ► SECONDS    its CPU so far

Members receive as consumers do: each has a task that awaits `receive`, again and again.
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
    """The layer, as settings would make it."""
    if name == "gredis":
        from gredis import GredisChannelLayer

        return GredisChannelLayer(url, capacity=CAPACITY)
    if name == "core":
        from channels_redis.core import RedisChannelLayer

        return RedisChannelLayer(hosts=[url], capacity=CAPACITY)
    from channels_redis.pubsub import RedisPubSubChannelLayer

    return RedisPubSubChannelLayer(hosts=[url])


def say(text: object) -> None:
    print(text, flush=True)


class Members:
    """The members in this process."""

    def __init__(self, layer: Any, number: int) -> None:
        self.layer = layer
        self.number = number
        self.heard = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        for _ in range(self.number):
            channel = await self.layer.new_channel()
            await self.layer.group_add(GROUP, channel)
            self.tasks.append(asyncio.create_task(self._listen(channel)))

    async def _listen(self, channel: str) -> None:
        while True:
            await self.layer.receive(channel)
            self.heard += 1
            if self.heard % self.number == 0:
                say("heard")


async def main(name: str, url: str, number: str) -> None:
    channels = layer(name, url)
    await Members(channels, int(number)).join()
    loop, orders = asyncio.get_running_loop(), asyncio.Queue[str]()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(orders.put_nowait, line)

    threading.Thread(target=read, daemon=True).start()
    say("ready")
    while True:
        order, _, text = (await orders.get()).rstrip("\n").partition(" ")
        if order == "send":
            await channels.group_send(GROUP, {"type": "line", "text": text})
            say("sent")
        else:
            say(time.process_time())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
