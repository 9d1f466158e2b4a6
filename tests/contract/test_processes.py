"""The layer where servers and commands use it: stock asyncio, and loops that live for one call."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import gevent
import pytest
import redis
from asgiref.sync import async_to_sync

from gredis import GredisChannelLayer
from gredis.drivers import asyncio as driver
from gredis.errors import Closed
from gredis.messages import unpack
from tests.contract import forking, plain
from tests.contract.conftest import DEADLINE
from tests.contract.test_faults import until
from thyme.loop.event_loop import HubLoop


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
            assert there.wait(DEADLINE) == 0
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
        assert driver.open_crossbars() == 0
        assert caplog.records == []


@pytest.mark.parametrize("kind", [("asyncio", "redis"), ("asyncio", "hub")], ids="-".join)
def test_a_process_that_redis_disconnected_while_stuck_still_gets_everything(make_client, run):
    async def scenario():
        sender, stuck = make_client(), make_client()
        got: list[int] = []
        address = stuck.router.add(lambda body: got.append(unpack(body)[0]))
        await stuck.await_reply(stuck.unicast_soon(address, [-1]))
        stuck.connections[0].transport.pause_reading()
        for number in range(1500):
            await sender.await_reply(sender.unicast_soon(address, [number, bytes(30_000)]))
        stuck.connections[0].transport.resume_reading()
        await until(lambda: len(got) >= 1501)
        return got

    assert run(scenario()) == list(range(-1, 1500))


@pytest.mark.parametrize(
    "kind", [("gevent", "redis"), ("asyncio", "valkey"), ("asyncio", "redis")], ids="-".join
)
def test_a_forked_child_has_a_crossbar_of_its_own_and_does_not_keep_its_parents_alive(url, kind):
    command = [sys.executable, forking.__file__, url, kind[0]]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as parent,
        redis.Redis.from_url(url) as looking_in,
    ):
        inbox, answer = parent.stdout.readline().split()
        assert answer == "answer"
        here = f"gredis:here:{inbox}"
        assert looking_in.pubsub_numsub(here)[0][1] == 1
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + DEADLINE
        while looking_in.pubsub_numsub(here)[0][1]:  # the child still runs
            assert time.monotonic() < deadline
        parent.stdin.close()
        while len(looking_in.client_list()) > 1:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("kind", [("gevent", "redis")], ids="-".join)
def test_native_threads_of_a_gevent_process_have_crossbars_of_their_own(url, run):
    layer = GredisChannelLayer(url)

    def in_a_thread() -> None:
        async def send() -> None:
            await layer.group_send("room", {"type": "from a thread"})
            await layer.close()

        with asyncio.Runner(loop_factory=HubLoop) as runner:
            runner.run(send())

    async def scenario():
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        thread = gevent.get_hub().threadpool.spawn(in_a_thread)
        message = await layer.receive(channel)
        thread.get()
        await layer.close()
        return message

    assert run(scenario()) == {"type": "from a thread"}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # whoever closes it so deserves that
@pytest.mark.parametrize("kind", [("asyncio", "redis")], ids="-".join)
def test_a_loop_closed_without_cancelling_tasks_harms_no_other(url):
    layer = GredisChannelLayer(url)

    async def begin() -> None:
        await layer.new_channel()
        layer.crossbar.multicast_soon("room", "nobody awaits this")

    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(begin())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False
    loop.close()
    del loop, task
    asyncio.run(layer.group_send("room", {"type": "t"}))
    gc.collect()
    assert driver.open_crossbars() == 0


@pytest.mark.parametrize(
    "kind", [("gevent", "redis"), ("asyncio", "redis"), ("asyncio", "hub")], ids="-".join
)
def test_no_call_follows_the_deregistration(kind, server, make_client, run):
    async def scenario():
        one = make_client()
        local = one.router.add(print).local
        await one.await_reply(one.join("room", local))
        session = one.connections[0].session
        call = session.call

        def call_and_go_on(script: str, *arguments: Any) -> Any:
            reply = call(script, *arguments)
            if script == "deregister":
                one.leave("room", local)
                one.send_confirm(one.router.add(print))
                one.task_done("work")
                with pytest.raises(Closed):
                    one.join("room", local)
            return reply

        session.call = call_and_go_on
        if (closing := one.close()) is not None:
            await closing

    run(scenario())
    if kind[1] == "redis":
        with redis.Redis.from_url(server.url) as looking_in:
            assert looking_in.keys() == []
