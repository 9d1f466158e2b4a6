"""The layer where servers and commands use it: stock asyncio, and loops that live for one call."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading

import pytest
import redis
from asgiref.sync import async_to_sync

from gredis import GredisChannelLayer
from gredis.drivers import asyncio as driver
from gredis.messages import unpack
from tests.contract import plain
from tests.contract.test_faults import until


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


gevent_kinds = pytest.mark.parametrize(
    "kind", [("gevent", "redis"), ("gevent", "hub")], ids="-".join
)


@gevent_kinds
def test_a_process_on_stock_asyncio_talks_to_one_on_gevent(url, run):
    command = [sys.executable, "-W", "error", plain.__file__, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as there:
        layer = GredisChannelLayer(url)
        theirs = there.stdout.readline().strip()

        async def scenario():
            mine = await layer.new_channel()
            await layer.group_send("room", {"type": "question", "from": mine})
            answers = [await layer.receive(mine)]
            await layer.send(theirs, {"type": "direct", "from": mine})
            answers.append(await layer.receive(mine))
            await layer.send(theirs, {"type": "end"})
            await layer.close()
            return [answer["got"]["type"] for answer in answers]

        try:
            assert run(scenario()) == ["question", "direct"]
            assert there.wait(10) == 0
        finally:
            there.kill()


@pytest.mark.parametrize("kind", [("asyncio", "redis"), ("asyncio", "valkey")], ids="-".join)
def test_a_loop_for_one_call_sends_and_leaves_nothing(url, run, caplog):
    layer = GredisChannelLayer(url)
    with redis.Redis.from_url(url) as looking_in:

        async def scenario():
            channel = await layer.new_channel()
            await layer.group_add("room", channel)

            def from_a_plain_thread() -> None:
                for number in range(5):
                    async_to_sync(layer.group_send)("room", {"type": "t", "n": number})

            thread = threading.Thread(target=from_a_plain_thread)
            thread.start()
            got = [(await layer.receive(channel))["n"] for _ in range(5)]
            while thread.is_alive():
                await asyncio.sleep(0.01)
            assert len(looking_in.client_list()) == 2
            await layer.close()
            return got

        with caplog.at_level(logging.WARNING):
            assert run(scenario()) == list(range(5))
        assert looking_in.keys() == []
        gc.collect()  # what was not closed would warn now
        assert driver._crossbars == {}
        assert caplog.records == []


@pytest.mark.parametrize("kind", [("asyncio", "redis"), ("asyncio", "hub")], ids="-".join)
def test_who_was_stuck_until_redis_gave_up_on_it_still_gets_everything(end, run):
    async def scenario():
        sender, stuck = end(), end()
        got: list[int] = []
        address = stuck.core.add(lambda body: got.append(unpack(body)[0]))
        await stuck.awaited(stuck.unicast_soon(address, [-1]))
        stuck.lines[0]._connection.transport.pause_reading()
        for number in range(1500):
            await sender.awaited(sender.unicast_soon(address, [number, bytes(30_000)]))
        stuck.lines[0]._connection.transport.resume_reading()
        await until(lambda: len(got) >= 1501)
        return got

    assert run(scenario()) == list(range(-1, 1500))
