"""Channels' layer contract: gredis on Redis beside Channels' own in-memory layer, the oracle.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer

from gredis import GredisChannelLayer
from tests.contract.conftest import Run


@pytest.fixture
def layer(url: str, run: Run) -> Iterator[Any]:
    if not url:
        memory = InMemoryChannelLayer(capacity=3)
        memory.channel_capacity = memory.compile_capacities({"wide.*": 5})
        yield memory
        return
    layer = GredisChannelLayer(url, capacity=3, channel_capacity={"wide.*": 5})
    yield layer
    run(layer.close())


async def nothing_comes(layer: Any, channel: str) -> bool:
    try:
        async with asyncio.timeout(0.05):
            await layer.receive(channel)
    except TimeoutError:
        return True
    return False


def test_a_message_sent_to_a_channel_is_received_from_it(layer, run):
    async def scenario():
        await layer.send("work", {"type": "t", "text": "é", "bytes": b"\0", "list": [1, 2.5, None]})
        return await layer.receive("work")

    assert run(scenario()) == {"type": "t", "text": "é", "bytes": b"\0", "list": [1, 2.5, None]}


def test_messages_of_a_sender_are_received_in_order_and_once(layer, run):
    async def scenario():
        channel = await layer.new_channel()
        for number in range(3):
            await layer.send(channel, {"type": "t", "number": number})
        got = [(await layer.receive(channel))["number"] for _ in range(3)]
        return got, await nothing_comes(layer, channel)

    assert run(scenario()) == ([0, 1, 2], True)


def test_a_receiver_may_wait_before_anything_is_sent(layer, run):
    async def scenario():
        channel = await layer.new_channel()
        waiting = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.01)
        await layer.send(channel, {"type": "t"})
        return await waiting

    assert run(scenario()) == {"type": "t"}


def test_a_cancelled_receive_takes_no_message(layer, run):
    async def scenario():
        channel = await layer.new_channel()
        for _ in range(20):
            waiting = asyncio.create_task(layer.receive(channel))
            await asyncio.sleep(0)
            await layer.send(channel, {"type": "t"})
            waiting.cancel()
            try:
                await waiting
            except asyncio.CancelledError:
                await layer.receive(channel)

    run(scenario())


def test_new_channels_are_different_and_process_local(layer, run):
    async def scenario():
        return [await layer.new_channel(), await layer.new_channel("mine")]

    one, two = run(scenario())
    assert one != two
    assert one.startswith("specific.") or "!" in one
    assert two.startswith("mine")
    assert "!" in one or isinstance(layer, InMemoryChannelLayer)


def test_a_group_message_reaches_each_member_once(layer, run):
    async def scenario():
        channels = [await layer.new_channel() for _ in range(3)]
        for channel in channels:
            await layer.group_add("room", channel)
            await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "line", "text": "hi"})
        got = [await layer.receive(channel) for channel in channels]
        return got, [await nothing_comes(layer, channel) for channel in channels]

    assert run(scenario()) == ([{"type": "line", "text": "hi"}] * 3, [True] * 3)


def test_a_discarded_member_receives_nothing_more(layer, run):
    async def scenario():
        stays, goes = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", stays)
        await layer.group_add("room", goes)
        await layer.group_discard("room", goes)
        await layer.group_discard("room", goes)
        await layer.group_send("room", {"type": "t"})
        return await layer.receive(stays), await nothing_comes(layer, goes)

    assert run(scenario()) == ({"type": "t"}, True)


def test_a_group_without_members_may_be_sent_to(layer, run):
    run(layer.group_send("nobody", {"type": "t"}))


def test_a_member_cannot_change_what_another_receives(layer, run):
    async def scenario():
        one, two = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", one)
        await layer.group_add("room", two)
        await layer.group_send("room", {"type": "t", "list": [1]})
        first = await layer.receive(one)
        first["list"].append(2)
        return await layer.receive(two)

    assert run(scenario()) == {"type": "t", "list": [1]}


def test_a_channel_without_receivers_is_full_at_its_capacity(layer, run):
    async def scenario():
        for _ in range(3):
            await layer.send("narrow", {"type": "t"})
        with pytest.raises(ChannelFull):
            await layer.send("narrow", {"type": "t"})
        for _ in range(5):
            await layer.send("wide.one", {"type": "t"})
        with pytest.raises(ChannelFull):
            await layer.send("wide.one", {"type": "t"})

    run(scenario())


def test_a_full_member_drops_a_group_message_and_the_others_receive_it(layer, run):
    async def scenario():
        full, free = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", full)
        await layer.group_add("room", free)
        for number in range(4):
            await layer.group_send("room", {"type": "t", "number": number})
            assert (await layer.receive(free))["number"] == number
        got = [(await layer.receive(full))["number"] for _ in range(3)]
        return got, await nothing_comes(layer, full)

    assert run(scenario()) == ([0, 1, 2], True)


@pytest.mark.parametrize("name", ["with namespace", "ü", "", "a" * 100, 7])
def test_bad_names_are_refused(layer, run, name):
    with pytest.raises(TypeError):
        run(layer.send(name, {"type": "t"}))
    with pytest.raises(TypeError):
        run(layer.group_send(name, {"type": "t"}))


def test_a_message_must_be_a_dictionary(layer, run):
    with pytest.raises((TypeError, AssertionError), match="dict"):
        run(layer.send("work", ["type"]))


def test_a_flush_forgets_groups_and_messages(layer, run):
    async def scenario():
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.send("work", {"type": "old"})
        await layer.flush()
        await layer.group_send("room", {"type": "t"})
        return await nothing_comes(layer, "work")

    assert run(scenario())


def test_300_sends_at_the_same_time_all_succeed(url, run):
    layer = GredisChannelLayer(url, capacity=1000) if url else InMemoryChannelLayer(capacity=1000)

    async def scenario():
        channel = await layer.new_channel()
        await asyncio.gather(
            *(layer.send(channel, {"type": "t", "n": number}) for number in range(300))
        )
        return [(await layer.receive(channel))["n"] for _ in range(300)]

    assert run(scenario()) == list(range(300))
    run(layer.close())
