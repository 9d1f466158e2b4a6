"""Features of the layer beyond Channels' contract; `tests/contract` has the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gredis import GredisChannelLayer
from gredis.channels.layer import ChannelTable
from gredis.errors import GredisError, Unreachable
from tests.conftest import RedisServer

DEADLINE = 60  # s for one test: much more than it takes
Scenario = Callable[[GredisChannelLayer], Awaitable[Any]]


@pytest.fixture
def run(redis_server: RedisServer) -> Callable[..., Any]:
    """Runs a scenario with a layer, which is closed then."""

    def run_one(scenario: Scenario, **options: Any) -> Any:
        async def limited() -> Any:
            layer = GredisChannelLayer(redis_server.url, **options)
            async with asyncio.timeout(DEADLINE):
                result = await scenario(layer)
                await layer.close()
                return result

        return asyncio.run(limited())

    return run_one


def test_a_listener_is_notified_and_gets_messages_and_losses(run):
    async def scenario(layer):
        channel, notified = await layer.new_channel(), asyncio.Event()
        next_message = layer.listen(channel, notified.set)
        assert next_message() is None
        await layer.send(channel, {"type": "t", "n": 1})
        await notified.wait()
        layer.crossbar.router.on_loss(3)
        return [next_message(), next_message(), next_message()]

    losses = {"type": "messages.lost", "count": 3}
    assert run(scenario, announce_losses=True) == [losses, {"type": "t", "n": 1}, None]
    assert run(scenario) == [{"type": "t", "n": 1}, None, None]


def test_a_channel_that_was_listened_to_is_closed_with_its_memberships(run):
    async def scenario(layer):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        layer.listen(channel, print)
        layer.unlisten(channel)
        crossbar = layer.crossbar
        return crossbar.shared(ChannelTable).channels, crossbar.router.has_members("room")

    assert run(scenario) == ({}, False)


def test_layers_on_the_same_crossbar_share_its_channels(run, redis_server):
    async def scenario(layer):
        other = GredisChannelLayer(redis_server.url)
        channel = await layer.new_channel()
        await other.send(channel, {"type": "t"})
        return await other.receive(channel)

    assert run(scenario) == {"type": "t"}


def test_a_channel_of_another_process_cannot_be_added_to_a_group(run):
    async def scenario(layer):
        with pytest.raises(GredisError, match="belongs to another process"):
            await layer.group_add("room", "specific.other!1")
        with pytest.raises(GredisError, match="belongs to another process"):
            await layer.group_discard("room", "specific.other!1")

    run(scenario)


def test_an_unreachable_redis_is_reported_with_the_first_channel(tmp_path):
    async def scenario():
        layer = GredisChannelLayer(f"unix://{tmp_path}/none", timeout=0.1)
        with pytest.raises(Unreachable, match=r"no answer from unix://.* for 0\.1 s"):
            await layer.new_channel()
        await layer.close()

    asyncio.run(scenario())
