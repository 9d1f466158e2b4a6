"""Features that our layer adds to the contract, and its decisions where that leaves a choice."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from gredis import GredisChannelLayer
from gredis.channels.encryption import Cipher
from gredis.channels.layer import ChannelTable
from gredis.drivers.asyncio import AsyncioCrossbar
from gredis.drivers.gevent import GeventCrossbar
from gredis.errors import GredisError, MessageTooLarge
from gredis.messages import pack
from tests.contract.conftest import DEADLINE
from tests.contract.test_faults import until

pytestmark = pytest.mark.parametrize(
    "kind",
    [(driver, place) for driver in ("gevent", "asyncio") for place in ("redis", "hub")],
    ids="-".join,
)


@pytest.fixture
def make(url, run):
    """Makes layers; those with the same URL and prefix share a crossbar."""
    made: list[GredisChannelLayer] = []

    def make_one(**options: Any) -> GredisChannelLayer:
        made.append(GredisChannelLayer(url, **options))
        return made[-1]

    yield make_one
    for layer in made:
        run(layer.close())


def test_messages_older_than_expiry_are_dropped_when_received(make, run):
    layer = make(expiry=0.05)

    async def scenario():
        channel = await layer.new_channel()
        for to in (channel, "work"):
            await layer.send(to, {"type": "old"})
        await asyncio.sleep(0.1)
        layer.expiry = DEADLINE  # what is new may take its time
        receiving = asyncio.create_task(layer.receive(channel))
        await until(lambda: layer.dropped)
        for each in channels_of(layer.crossbar):
            each.expiry = DEADLINE
        for to in (channel, "work"):
            await layer.send(to, {"type": "new"})
        return [(await receiving)["type"], (await layer.receive("work"))["type"]]

    assert run(scenario()) == ["new", "new"]


def test_expired_messages_do_not_fill_a_shared_channel(make, run):
    layer = make(expiry=0.05, capacity=2)

    async def scenario():
        for _ in range(3):
            await layer.send("work", {"type": "old"})
            await layer.send("work", {"type": "old"})
            await asyncio.sleep(0.1)
        layer.expiry = DEADLINE
        await layer.send("work", {"type": "new"})
        await layer.send("work", {"type": "new"})
        with pytest.raises(ChannelFull):
            await layer.send("work", {"type": "new"})

    run(scenario())


def test_sends_at_the_same_time_to_a_channel_of_this_process_never_exceed_its_capacity(make, run):
    layer = make(capacity=10)

    async def scenario():
        channel = await layer.new_channel()
        sends = [layer.send(channel, {"type": "t", "n": n}) for n in range(50)]
        results = await asyncio.gather(*sends, return_exceptions=True)
        accepted = [n for n, result in enumerate(results) if result is None]
        got = [(await layer.receive(channel))["n"] for _ in accepted]
        return accepted, got, results

    accepted, got, results = run(scenario())
    assert accepted == got == list(range(10))
    assert {type(result) for result in results[10:]} == {ChannelFull}
    assert layer.dropped == 0


def test_drops_are_counted_warned_about_once_and_reported_on_request(make, run, caplog):
    layer = make(capacity=2, announce_losses=True)

    async def scenario():
        slow, quick = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", slow)
        await layer.group_add("room", quick)
        for number in range(5):
            await layer.group_send("room", {"type": "t", "n": number})
            await layer.receive(quick)
        got = [await layer.receive(slow) for _ in range(3)]
        await layer.group_send("room", {"type": "t", "n": 5})
        return [*got, await layer.receive(slow)]

    with caplog.at_level(logging.WARNING, "gredis"):
        got = run(scenario())
    assert got[0] == {"type": "messages.lost", "count": 3}
    assert [message["n"] for message in got[1:]] == [0, 1, 5]
    assert layer.dropped == 3
    assert len(caplog.records) == 1


def test_a_stuck_socket_does_not_fill_the_inbox_of_its_process(make, run):
    layer = make(capacity=5)

    async def scenario():
        stuck, alive = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("stuck", stuck)
        for _ in range(500):
            await layer.group_send("stuck", {"type": "t"})
        await layer.send(alive, {"type": "alive"})
        return await layer.receive(alive)

    assert run(scenario()) == {"type": "alive"}
    assert layer.dropped == 495


def test_a_burst_arrives_complete_when_the_sender_waits(make, run):
    layer = make(capacity=10, timeout=DEADLINE)
    members, messages = 100, 1000

    async def receive(channel: str) -> list[int]:
        return [(await layer.receive(channel))["n"] for _ in range(messages)]

    async def scenario():
        channels = [await layer.new_channel() for _ in range(members)]
        await asyncio.gather(*(layer.group_add("room", channel) for channel in channels))
        receiving = [asyncio.create_task(receive(channel)) for channel in channels]
        for number in range(messages):
            await layer.group_send("room", {"type": "t", "n": number}, wait=True)
        return await asyncio.gather(*receiving)

    assert run(scenario()) == [list(range(messages))] * members
    assert layer.dropped == 0


def test_a_sender_that_waits_for_a_stuck_member_times_out(make, run):
    layer = make(capacity=2, wait_for_receivers=True)

    async def scenario():
        await layer.group_add("room", await layer.new_channel())
        await layer.group_send("room", {"type": "t"})
        layer.timeout = 0.1  # for the one that must fail
        with pytest.raises(ChannelFull, match="no room for too long"):
            await layer.group_send("room", {"type": "t"})
        layer.timeout = DEADLINE
        await layer.group_send("nobody", {"type": "t"})

    run(scenario())


def test_only_processes_with_a_key_can_read_and_keys_are_rotated(make, run, url, kind):
    old = make(prefix="p", symmetric_encryption_keys=["old"])
    both = make(prefix="p", symmetric_encryption_keys=["new", b"old"])
    new = make(prefix="p", symmetric_encryption_keys=["new"])

    async def scenario():
        await old.send("work", {"type": "t", "secret": "sesame"})
        first = await both.receive("work")
        await both.send("work", {"type": "t", "secret": "open"})
        await old.send("work", {"type": "unreadable"})
        await new.send("work", {"type": "t", "secret": "last"})
        return [first, await new.receive("work"), await new.receive("work")]

    assert [message["secret"] for message in run(scenario())] == ["sesame", "open", "last"]
    assert new.dropped == 1


def test_messages_are_unreadable_on_the_wire_with_keys(make, run):
    layer = make(symmetric_encryption_keys=["key"])

    async def scenario():
        bodies: list[bytes] = []
        crossbar = layer.crossbar
        await crossbar.await_reply(crossbar.consume("work", bodies.append, 1))
        await layer.send("work", {"type": "t", "secret": "sesame"})
        await until(lambda: bodies)
        return bodies

    (body,) = run(scenario())
    assert b"sesame" not in body
    assert Cipher(["key"]).decrypt(body) == pack({"type": "t", "secret": "sesame"})
    with pytest.raises(GredisError, match="expected a list of keys"):
        make(symmetric_encryption_keys="key")


def test_a_prefix_is_a_crossbar_of_its_own(make, run):
    one, two = make(prefix="one"), make(prefix="two")

    async def scenario():
        await one.send("work", {"type": "for one"})
        await two.send("work", {"type": "for two"})
        return await two.receive("work"), await one.receive("work")

    assert run(scenario()) == ({"type": "for two"}, {"type": "for one"})


def test_a_message_above_the_limit_is_refused_and_a_large_one_arrives(make, run):
    layer = make()

    async def scenario():
        with pytest.raises(MessageTooLarge, match="send it in parts"):
            await layer.send("work", {"type": "t", "bytes": bytes(17_000_000)})
        await layer.send("work", {"type": "t", "bytes": bytes(10_000_000)})
        return len((await layer.receive("work"))["bytes"])

    assert run(scenario()) == 10_000_000


def test_the_driver_is_the_running_loops(make, run, kind):
    layer = make()

    async def crossbar():
        return layer.crossbar

    expected = GeventCrossbar if kind[0] == "gevent" else AsyncioCrossbar
    assert isinstance(run(crossbar()), expected)


def channels_of(crossbar: Any) -> list[Any]:
    return list(crossbar.shared(ChannelTable).channels.values())


def test_a_channel_ends_with_its_consumer(make, run):
    layer = make()

    async def consumer() -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.receive(channel)

    async def scenario():
        task = asyncio.create_task(consumer())
        crossbar = layer.crossbar
        await until(lambda: any(channel.waiting for channel in channels_of(crossbar)))
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        return crossbar.router.has_members("room"), crossbar.shared(ChannelTable).channels

    assert run(scenario()) == (False, {})


def test_a_receiver_that_stops_waiting_for_a_while_stays_a_member(make, run):
    layer = make()

    async def scenario():
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.01)
        await layer.group_send("room", {"type": "t"})
        return await layer.receive(channel)

    assert run(scenario()) == {"type": "t"}


def test_members_share_nothing_that_can_be_changed(make, run):
    layer = make(symmetric_encryption_keys=["key"])

    async def scenario():
        channels = [await layer.new_channel() for _ in range(3)]
        for channel in channels:
            await layer.group_add("room", channel)
        got = []
        for message in ({"type": "t", "n": 1}, {"type": "t", "list": [{"n": 1}]}):
            await layer.group_send("room", message)
            for channel in channels:
                got.append(await layer.receive(channel))
                assert got[-1] == message
                got[-1]["type"] = "changed"
                got[-1].get("list", [{}])[0]["n"] = "changed"
        return len({id(message) for message in got})

    assert run(scenario()) == 6


def test_a_waiting_receiver_learns_of_losses_at_once(make, run, url):
    layer = make(announce_losses=True)

    async def scenario():
        channel = await layer.new_channel()
        receiving = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        layer.crossbar.router.on_loss(7)
        return await receiving

    assert run(scenario()) == {"type": "messages.lost", "count": 7}
