"""A channel's buffer and its waiting receivers, without a layer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gredis.channels.channel import Channel, MessageCache
from gredis.channels.encryption import Cipher
from gredis.messages import pack
from gredis.router import Router

PLAIN = Cipher()


@pytest.fixture
def drops() -> list[str]:
    return []


@pytest.fixture
def loop():
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        yield runner.get_loop()


def make(drops: list[str], **options: Any) -> Channel:
    router = Router()
    router.sent_at = 10**12  # never too old
    settings = {"capacity": 4, "expiry": 60, "router": router, "cache": MessageCache()}
    return Channel("name", on_drop=drops.append, **(settings | options))


def put(channel: Channel, *numbers: int) -> None:
    for number in numbers:
        channel.put(pack({"n": number}))


def numbers(channel: Channel) -> list[int]:
    found = []
    while (received := channel.get_nowait()) is not None:
        found.append(received.decode(PLAIN)["n"])
    return found


def test_a_full_channel_drops_and_counts(drops):
    channel = make(drops, capacity=2)
    put(channel, 1, 2, 3)
    assert (numbers(channel), drops, channel.take_losses()) == ([1, 2], ["name"], 1)
    assert channel.take_losses() == 0


def test_what_has_expired_is_dropped_when_it_is_taken_out(drops):
    router = Router()
    router.sent_at = -(10**12)
    channel = make(drops, router=router)
    put(channel, 1)
    assert (numbers(channel), drops) == ([], ["name"])


def test_a_reserved_place_is_counted_as_full_until_its_message_comes(drops):
    channel = make(drops, capacity=1)
    channel.reserved = 1
    assert channel.full
    put(channel, 1)
    assert (channel.reserved, channel.full, drops) == (0, True, [])


def test_a_waiting_receiver_gets_the_message_directly(drops, loop):
    channel = make(drops)
    future = channel.get(loop)
    put(channel, 1)
    assert future.result().decode(PLAIN) == {"n": 1}
    assert (list(channel.messages), list(channel.waiting)) == ([], [])


def test_a_cancelled_receiver_puts_its_message_back_in_front(drops, loop):
    channel = make(drops)
    future = channel.get(loop)
    put(channel, 1, 2)
    channel.cancel_get(future)
    assert numbers(channel) == [1, 2]


def test_a_cancelled_receiver_that_has_no_message_takes_none(drops, loop):
    channel = make(drops)
    future = channel.get(loop)
    future.cancel()
    channel.cancel_get(future)
    put(channel, 1)
    assert numbers(channel) == [1]


def test_a_listener_is_notified_of_each_message(drops):
    channel, notified = make(drops), []
    channel.listen(lambda: notified.append(len(channel.messages)))
    put(channel, 1, 2)
    assert notified == [1, 2]


def test_senders_are_called_when_the_buffer_is_half_empty(drops):
    channel, called = make(drops, capacity=4), []
    put(channel, 1, 2)
    assert not channel.when_room(lambda: called.append("at once"))
    put(channel, 3, 4)
    assert channel.when_room(lambda: called.append("later"))
    channel.get_nowait()
    assert called == []
    channel.get_nowait()
    assert called == ["later"]


def test_a_receiver_is_told_of_losses_only_if_they_are_reported(drops, loop):
    quiet, reporting = make(drops), make(drops, report_losses=True)
    futures = [channel.get(loop) for channel in (quiet, reporting)]
    for channel in (quiet, reporting):
        channel.record_loss(None)
    assert not futures[0].done()
    assert futures[1].result() is None
    assert reporting.take_losses() is None


def test_members_share_one_message_and_own_their_copies(drops):
    cache = MessageCache()
    one, two = make(drops, cache=cache), make(drops, cache=cache)
    body = pack({"flat": 1})
    one.put(body)
    two.put(body)
    assert one.messages[0] is two.messages[0]
    first, second = one.messages[0].decode(PLAIN), two.messages[0].decode(PLAIN)
    first["flat"] = "changed"
    assert second == {"flat": 1}


def test_the_owner_is_not_kept_alive(drops, loop):
    async def nothing() -> None:
        """No-op."""

    task = loop.create_task(nothing())
    channel = make(drops, owner=task)
    assert channel.owner is task
    loop.run_until_complete(task)
    del task
    assert channel.owner is None
