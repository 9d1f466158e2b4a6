"""A process on stock asyncio, nothing of gevent: answers each message it receives to its sender."""

import asyncio
import sys

from gredis import GredisChannelLayer


async def main(url: str) -> None:
    layer = GredisChannelLayer(url)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    print(channel, flush=True)
    while (message := await layer.receive(channel))["type"] != "end":
        await layer.send(message["from"], {"type": "answer", "got": message})
    assert "gevent" not in sys.modules
    await layer.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
