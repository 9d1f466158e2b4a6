"""The hub's calls, one by one; `test_session.py` and the contract tests run it with clients."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from gredis.carriers.redis import scripts
from gredis.carriers.tcp import VERSION, TcpCarrier
from gredis.errors import GredisError
from gredis.hub.state import RETENTION_SECONDS, SCRIPTS, Hub, HubConnection, Namespace


@pytest.fixture
def clock() -> list[int]:
    return [1_000]


@pytest.fixture
def space(clock: list[int]) -> Namespace:
    return Namespace(lambda: clock[0])


def register(space: Namespace, name: str, groups: list[str], **queues: int) -> list[Any]:
    space.connect(name, lambda number, sent, message: None)
    return space.register(name, msgpack.packb({"groups": groups, "queues": queues}), 0)


def test_the_hub_has_the_calls_that_redis_has_scripts_for():
    assert set(SCRIPTS) == set(scripts())


def test_a_call_that_comes_twice_is_carried_out_once(space):
    register(space, "a", [])
    register(space, "b", [])
    assert space.call("a", 1, "unicast", ["b", b"u1\0x", 5]) == b"OK"
    assert space.call("a", 1, "unicast", ["b", b"u1\0x", 5]) == b"DONE"
    assert space.fetch("b", 0, 10, 1000)[1:] == [1, 1_000, b"u1\0x"]


def test_an_anycast_goes_to_the_consumer_with_most_room(space):
    register(space, "a", [], work=1)
    register(space, "b", [], work=3)
    got = [space.anycast("c", "work", b"awork\0x", 9, 1, 0) for _ in range(6)]
    assert sorted(got[:4]) == [b"a", b"b", b"b", b"b"]
    assert got[4:] == [b"WAITING", b"FULL"]
    assert space.consume("a", "work", 1, 9) == 1


def test_what_waits_too_long_makes_room_for_others(space, clock):
    assert space.anycast("a", "work", b"awork\0x", 9, 1, 50) == b"WAITING"
    assert space.anycast("a", "work", b"awork\0y", 9, 1, 50) == b"FULL"
    clock[0] += 50
    assert space.anycast("a", "work", b"awork\0y", 9, 1, 50) == b"WAITING"


def test_a_multicast_to_a_full_inbox_uses_up_a_number(space):
    register(space, "a", ["room"])
    assert [space.multicast("b", "room", b"mroom\0x", 1) for _ in range(3)] == [
        [1, 0],
        [0, 1],
        [0, 1],
    ]
    assert space.trim("a", 1) == 3


def test_an_absent_process_is_evicted_after_its_grace_and_all_are_notified(space, clock):
    pushed: list[bytes] = []
    push = lambda number, sent, message: None  # noqa: E731
    register(space, "b", [])
    space.connect("b", lambda number, sent, message: pushed.append(message))
    register(space, "a", ["room"])
    space.connect("a", push)
    space.disconnect("a", push)
    assert space.probe("b", "a", 500) == b"ABSENT"
    clock[0] += 500
    assert space.probe("b", "a", 500) == b"GONE"
    assert pushed == [b"ga\0"]
    assert space.groups == {}
    assert space.probe("b", "a", 500) == b"GONE"


def test_an_evicted_inbox_is_deleted_after_its_retention(space, clock):
    push = lambda number, sent, message: None  # noqa: E731
    register(space, "a", [])
    space.connect("a", push)
    space.disconnect("a", push)
    space.probe("b", "a", 0)
    clock[0] += RETENTION_SECONDS * 1000
    space.unicast("b", "another", b"u1\0x", 5)  # a new inbox: dead ones are looked for
    assert "a" not in space.inboxes


def test_nothing_is_left_of_a_process_that_deregisters(space):
    register(space, "a", ["room"], work=3)
    space.call("a", 1, "deregister", [])
    assert (space.inboxes, space.known, space.groups, space.queues) == ({}, {}, {}, {})


def test_another_protocol_version_and_unknown_scripts_are_refused(space):
    with pytest.raises(GredisError, match=f"version {VERSION + 1} not supported; use {VERSION}"):
        space.hello("a", VERSION + 1)
    with pytest.raises(GredisError, match="unknown script 'connect'"):
        space.call("a", 0, "connect", [])


def test_what_is_no_call_ends_the_connection():
    carrier, wrote = TcpCarrier("me"), []
    connection = HubConnection(Hub(lambda: 0), wrote.append)
    connection.receive(carrier.encode(carrier.handshake()))
    assert list(carrier.decoder().feed(wrote[0])) == [("reply", b"OK")]
    with pytest.raises(GredisError, match="expected a call"):
        connection.receive(carrier.encode([("too", "short")]))
