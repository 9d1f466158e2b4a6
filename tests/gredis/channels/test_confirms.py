"""Counting confirms: the sender's half; the receivers' is in `tests/gredis/test_router.py`."""

from __future__ import annotations

import asyncio

from gredis.channels.confirms import ConfirmCounter
from gredis.messages import Kind, Message
from gredis.router import Router


def confirm(router: Router, counter: ConfirmCounter) -> None:
    router.deliver(Message(Kind.UNICAST, counter.address.local, b"\xc0").encode())


def test_waiting_ends_with_the_last_confirm():
    async def scenario() -> list[bool]:
        router = Router()
        counter = ConfirmCounter(router, asyncio.get_running_loop())
        confirm(router, counter)  # may come before the number of processes is known
        waiting = asyncio.create_task(counter.wait_for(2, 60))
        await asyncio.sleep(0)
        assert not waiting.done()
        confirm(router, counter)
        results = [await waiting, await counter.wait_for(2, 60), await counter.wait_for(0, 60)]
        counter.close()
        assert router.locals == frozenset()
        return results

    assert asyncio.run(scenario()) == [True, True, True]


def test_waiting_times_out_when_confirms_are_missing():
    async def scenario() -> bool:
        counter = ConfirmCounter(Router(), asyncio.get_running_loop())
        return await counter.wait_for(1, 0.01)

    assert asyncio.run(scenario()) is False
