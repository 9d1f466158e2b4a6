"""The choice of the driver, by the running loop."""

import asyncio

from gredis import drivers
from gredis.drivers.asyncio import AsyncioCrossbar
from gredis.drivers.gevent import GeventCrossbar
from thyme.loop.event_loop import HubLoop

URL = "unix:///nowhere"


async def connect():
    return drivers.connect(URL)


def test_each_loop_gets_its_kind_of_crossbar():
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert isinstance(runner.run(connect()), AsyncioCrossbar)
    with asyncio.Runner(loop_factory=HubLoop) as runner:
        on_gevent = runner.run(connect())
    assert isinstance(on_gevent, GeventCrossbar)
    assert drivers.connect(URL) is on_gevent  # plain code runs in a greenlet of the same thread
