"""Channel messages reach a consumer in order, from layers that notify and from all others."""

import asyncio
from collections import deque

import pytest
from channels.layers import InMemoryChannelLayer

from thyme.fastpath.channel_sources import (
    ListenableLayer,
    ListenedChannel,
    NoChannel,
    ReceivedChannel,
    channel_source,
)
from thyme.loop.event_loop import HubLoop


class Notifying:
    """A layer that notifies, as gredis' does."""

    def __init__(self):
        self.messages, self.notify = deque(), {}

    def listen(self, channel, notify):
        self.notify[channel] = notify
        return lambda: self.messages.popleft() if self.messages else None

    def unlisten(self, channel):
        del self.notify[channel]


@pytest.fixture
def loop():
    loop = HubLoop()
    yield loop
    loop.close()


def test_a_layer_that_notifies_is_listened_to_until_the_source_is_closed(loop):
    layer, notified = Notifying(), []
    source = channel_source(layer, "c", loop)
    assert isinstance(source, ListenedChannel)
    source.open(lambda: notified.append(True))
    layer.messages.extend([{"type": "a"}, {"type": "b"}])
    layer.notify["c"]()
    assert notified == [True]
    taken = [source.next_message() for _ in range(3)]
    assert taken == [{"type": "a"}, {"type": "b"}, None]
    loop.run_until_complete(source.close())
    assert layer.notify == {}


def test_any_other_layer_is_received_from_one_message_at_a_time(loop):
    layer, notified = InMemoryChannelLayer(), []

    async def scenario():
        channel = await layer.new_channel()
        source = channel_source(layer, channel, loop)
        assert isinstance(source, ReceivedChannel)
        source.open(lambda: notified.append(True))
        for number in range(2):
            await layer.send(channel, {"type": "t", "number": number})
        taken = []
        while len(taken) < 2:
            await asyncio.sleep(0)
            if message := source.next_message():
                assert len(notified) == len(taken) + 1  # the second is not received before
                taken.append(message["number"])
        await source.close()
        return taken

    assert loop.run_until_complete(scenario()) == [0, 1]


def test_only_layers_with_both_methods_are_listened_to():
    assert isinstance(Notifying(), ListenableLayer)
    assert not isinstance(InMemoryChannelLayer(), ListenableLayer)


def test_a_consumer_without_a_layer_has_no_messages(loop):
    source = NoChannel()
    source.open(lambda: pytest.fail("there is nothing to notify of"))
    assert source.next_message() is None
    loop.run_until_complete(source.close())
