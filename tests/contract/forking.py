"""A process that has a crossbar and then forks; the child uses the same layer, and outlives it.

Arguments: URL and driver. Says its inbox and what the child has received, and waits to be killed;
the child ends when its standard input does.
"""

import asyncio
import os
import signal
import sys

import gevent

from gredis import GredisChannelLayer
from thyme.loop.event_loop import HubLoop


def main(url: str, driver: str) -> None:
    layer = GredisChannelLayer(url)
    loop = HubLoop if driver == "gevent" else asyncio.SelectorEventLoop
    runner = asyncio.Runner(loop_factory=loop)
    channel = runner.run(layer.new_channel())
    said, says = os.pipe()
    child = gevent.fork() if driver == "gevent" else os.fork()
    if child == 0:
        with asyncio.Runner(loop_factory=loop) as own:
            mine = own.run(layer.new_channel())
            own.run(layer.send(channel, {"type": "t", "from": mine}))
            os.write(says, str(own.run(layer.receive(mine))["type"]).encode())
            sys.stdin.read()
            own.run(layer.close())
        os._exit(0)
    message = runner.run(layer.receive(channel))
    runner.run(layer.send(message["from"], {"type": "answer"}))
    print(channel.partition(".")[2].partition("!")[0], os.read(said, 100).decode(), flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
