"""The public verbs of the asyncio driver, as `test_gevent.py` has them for gevent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gredis.drivers.asyncio import AsyncioCrossbar, connect, open_crossbars
from gredis.errors import Full, Gone
from gredis.names import Address
from tests.conftest import RedisServer

DEADLINE = 60  # s for one test: much more than it takes


@pytest.fixture
def run(redis_server: RedisServer):
    """Runs a scenario, which is given a function that opens crossbars, and closes them."""

    def run_one(scenario: Callable[[Callable], Awaitable[None]]) -> None:
        async def limited() -> None:
            opened: list[AsyncioCrossbar] = []

            async def open_one(**options: object) -> AsyncioCrossbar:
                opened.append(AsyncioCrossbar(redis_server.url, **options))
                await opened[-1].open()
                return opened[-1]

            async with asyncio.timeout(DEADLINE):
                await scenario(open_one)
                for one in opened:
                    await one.close()

        asyncio.run(limited())

    return run_one


def test_a_unicast_reaches_one_mailbox(run):
    async def scenario(crossbar):
        ann, ben = await crossbar(), await crossbar()
        mailbox, other = ben.mailbox(), ben.mailbox()
        await ann.unicast(mailbox.address, {"text": "hé", "bytes": b"\0\xff"})
        await ann.unicast(other.address, "for the other")
        assert await mailbox.get() == {"text": "hé", "bytes": b"\0\xff"}
        assert await other.get() == "for the other"

    run(scenario)


def test_a_multicast_reports_how_many_processes_it_reached(run):
    async def scenario(crossbar):
        ann, ben = await crossbar(), await crossbar()
        mailbox = ben.mailbox()
        await ben.join("room", mailbox.address.local)
        assert await ann.multicast("room", "line") == (1, 0)
        assert await mailbox.get() == "line"
        mailbox.close()
        assert await ann.multicast("empty", "line") == (0, 0)

    run(scenario)


def test_full_queues_and_inboxes_refuse(run):
    async def scenario(crossbar):
        sender, slow = await crossbar(capacity=0, queue_capacity=0), await crossbar()
        with pytest.raises(Full, match=r"the inbox of .* is full"):
            await sender.unicast(slow.mailbox().address, "x")
        with pytest.raises(Full, match="queue 'work' is full"):
            await sender.anycast("work", "x")

    run(scenario)


def test_a_mailbox_reports_the_death_of_the_process_it_watches(run):
    async def scenario(crossbar):
        server, worker = await crossbar(), await crossbar()
        mailbox = server.mailbox()
        mailbox.watch(worker.inbox)
        worker.abort()
        reading = asyncio.create_task(mailbox.get())
        while not reading.done():  # until Redis has noticed, too
            await server.unicast(Address(worker.inbox, "1"), "x")
            await asyncio.sleep(0.01)
        with pytest.raises(Gone, match=worker.inbox):
            await reading

    run(scenario)


def test_a_loop_has_one_crossbar_per_url_until_it_is_closed(redis_server):
    async def scenario():
        one = connect(redis_server.url)
        assert connect(redis_server.url) is one
        assert open_crossbars() == 1
        await one.open()
        await one.close()
        assert open_crossbars() == 0
        another = connect(redis_server.url)
        assert another is not one
        await another.open()

    asyncio.run(scenario())  # its end closes the one that is still open
    assert open_crossbars() == 0
