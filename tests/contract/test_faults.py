"""Invariants when things break: nothing accepted is lost, and all works again at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

import gredis.client
import gredis.session
from gredis.errors import GredisError, Unreachable
from gredis.location import Location
from gredis.messages import unpack
from tests.contract.conftest import DEADLINE

pytestmark = pytest.mark.parametrize(
    "kind",
    [(driver, place) for driver in ("gevent", "asyncio") for place in ("valkey", "redis", "hub")],
    ids="-".join,
)

MESSAGES = 1_000
KILLS = 200
MANY_KILLS = 2_000  # then even a slow machine may get on with its work


async def until(true: Any) -> None:
    """Let others run until `true()`; the fixture `run` limits it."""
    while not true():
        await asyncio.sleep(0.001)


@pytest.fixture
def no_evictions(monkeypatch):
    """Do not evict a process that is cut off and then stands still with the whole machine."""
    for module in (gredis.client, gredis.session):
        monkeypatch.setattr(module, "GRACE", DEADLINE)


def cut(server: Any, ends: list[Any]) -> int:
    """Cut all connections, for Redis by CLIENT KILL. Return their number."""
    if server.url.startswith("tcp"):
        return sum(_cut_here(line) for end in ends for line in end.connections)
    with redis.Redis.from_url(server.url) as looking_in:
        return sum(
            looking_in.client_kill_filter(_type=kind, skipme=True) for kind in ("normal", "pubsub")
        )


def _cut_here(connection: Any) -> bool:
    """Cut one connection from this side; return whether there was one."""
    was_connected: bool = connection.connected
    connection.cut()
    return was_connected


@contextmanager
def cut_off(line: Any) -> Iterator[None]:
    """Lose a connection, and make its host unreachable meanwhile."""
    location = line.location
    with socket.socket() as nobody:  # bound, does not listen
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        line.location = Location("tcp", "127.0.0.1", port, display_url=location.display_url)
        assert _cut_here(line)
        yield
        line.location = location


@contextmanager
def losing_input(line: Any) -> Iterator[None]:
    """Lose everything received meanwhile; the connection must be cut afterwards."""
    line.session.receive = lambda received: None
    yield
    del line.session.receive


def test_connections_killed_under_load_lose_and_repeat_nothing(
    server, make_client, run, no_evictions
):
    async def scenario():
        sender, receiver = make_client(), make_client()
        got: dict[str, list[int]] = {"unicast": [], "anycast": [], "multicast": []}
        put = {name: lambda body, to=to: to.append(unpack(body)) for name, to in got.items()}
        address = receiver.router.add(put["unicast"])
        member = receiver.router.add(put["multicast"])
        await receiver.await_reply(receiver.join("room", member.local))

        def taken(body: bytes) -> None:
            put["anycast"](body)
            receiver.task_done("work")

        await receiver.await_reply(receiver.consume("work", taken, 5))
        verbs = [
            lambda n: sender.unicast_soon(address, n),
            lambda n: sender.anycast_soon("work", n),
            lambda n: sender.multicast_soon("room", n),
        ]

        async def send(verb: Any) -> None:
            for number in range(MESSAGES):
                await sender.await_reply(verb(number))

        sending = [asyncio.create_task(send(verb)) for verb in verbs]
        killed = 0
        while killed < KILLS or (killed < MANY_KILLS and not all(each.done() for each in sending)):
            if all(one.connections[0].session.ready for one in (sender, receiver)):
                killed += cut(server, [sender, receiver])  # else a slow machine never gets on
            await asyncio.sleep(0.003)
        await asyncio.gather(*sending)
        await until(lambda: all(len(numbers) >= MESSAGES for numbers in got.values()))
        return got, killed

    got, killed = run(scenario())
    assert killed >= KILLS
    assert got["unicast"] == list(range(MESSAGES))
    assert got["multicast"] == list(range(MESSAGES))
    assert sorted(got["anycast"]) == list(range(MESSAGES))


def test_groups_and_queues_work_again_after_a_restart_that_forgets_all(server, make_client, run):
    async def scenario():
        sender, member = make_client(), make_client()
        got: list[Any] = []
        lost: list[Any] = []
        local = member.router.add(lambda body: got.append(unpack(body))).local
        member.router.watch_losses(lost.append)
        await member.await_reply(member.join("room", local))
        await member.await_reply(member.consume("work", lambda body: got.append(unpack(body)), 5))
        for number in range(5):
            await sender.await_reply(sender.multicast_soon("room", number))
        await until(lambda: len(got) == 5)
        server.kill()
        server.start()
        while (await sender.await_reply(sender.multicast_soon("room", "line")))[0] != 1:
            await asyncio.sleep(0.01)
        await until(lambda: "line" in got)
        await sender.await_reply(sender.anycast_soon("work", "job"))
        await until(lambda: "job" in got)
        return got, lost

    got, lost = run(scenario())
    assert got == [*range(5), "line", "job"]
    assert lost == [None]


async def room_of(end: Any, queue: str) -> int:
    """The room of a queue as the other side counts it."""
    _, queues, _ = await end.await_reply(end.status()[0])
    return {row[0].decode(): row[2] for row in queues}[queue]


def test_an_evicted_process_that_returns_learns_that_it_has_lost_messages(server, make_client, run):
    async def scenario():
        sender, receiver = make_client(), make_client()
        line = receiver.connections[0]
        got: list[Any] = []
        jobs: list[Any] = []
        lost: list[Any] = []
        dead: list[str] = []
        direct = receiver.router.add(lambda body: got.append(unpack(body)))
        receiver.router.watch_losses(lost.append)
        sender.router.watch(receiver.inbox, dead.append)
        await receiver.await_reply(receiver.join("room", direct.local))
        await receiver.await_reply(
            receiver.consume("work", lambda body: jobs.append(unpack(body)), 5)
        )
        for job in ("finished before", "finished while away"):
            await sender.await_reply(sender.anycast_soon("work", job))
        await until(lambda: len(jobs) == 2)
        await receiver.await_reply(receiver.task_done("work"))
        with losing_input(line):
            await sender.await_reply(sender.anycast_soon("work", "unseen"))
            await sender.await_reply(sender.unicast_soon(direct, "unseen"))
        with cut_off(line):
            receiver.task_done("work")
            reply = await sender.await_reply(sender.unicast_soon(direct, "kept"))
            await until(lambda: dead)
            missed = await sender.await_reply(sender.multicast_soon("room", "missed"))
            await sender.await_reply(sender.anycast_soon("work", "waiting"))
        await until(lambda: line.session.ready and not line.session.has_pending_calls)
        for number in range(5):
            assert (await sender.await_reply(sender.multicast_soon("room", number)))[:2] == [1, 0]
        await until(lambda: 4 in got and len(jobs) == 4)
        assert await room_of(sender, "work") == 3  # two jobs are not finished
        for _ in range(2):
            await receiver.await_reply(receiver.task_done("work"))
        return (
            reply,
            missed[:2],
            dead == [receiver.inbox],
            got,
            jobs[2:],
            lost,
            await room_of(sender, "work"),
        )

    assert run(scenario()) == (
        b"ABSENT", [0, 0], True, ["unseen", "kept", *range(5)], ["unseen", "waiting"], [None], 5,
    )  # fmt: skip


def test_a_queue_consumed_before_there_is_a_connection_has_its_room_once(make_client, run):
    async def scenario():
        one = make_client()
        await one.await_reply(one.consume("work", print, 5))
        return await room_of(one, "work")

    assert run(scenario()) == 5


def test_callers_time_out_when_no_server_answers(server, make_client, run):
    async def scenario():
        impatient = make_client()
        await impatient.await_reply(impatient.multicast_soon("room", "line"))
        server.kill()
        impatient.timeout = 0.1  # for the one that must fail
        try:
            with pytest.raises(Unreachable, match=r"no answer from .* for 0\.1 s"):
                await impatient.await_reply(impatient.multicast_soon("room", "line"))
        finally:
            server.start()
        impatient.timeout = DEADLINE
        await impatient.await_reply(impatient.multicast_soon("room", "line"))

    run(scenario())


def test_a_process_that_does_not_read_costs_a_bounded_inbox_and_sees_what_it_lost(make_client, run):
    async def scenario():
        sender, slow = make_client(capacity=20), make_client(capacity=20)
        got: list[Any] = []
        lost: list[Any] = []
        local = slow.router.add(lambda body: got.append(unpack(body))).local
        slow.router.watch_losses(lost.append)
        await slow.await_reply(slow.join("room", local))
        deliver, held = slow.connections[0].session.receive, []
        slow.connections[0].session.receive = held.append  # it is stuck
        replies = [await sender.await_reply(sender.multicast_soon("room", n)) for n in range(50)]
        reply = await sender.await_reply(sender.unicast_soon(slow.router.add(print), "x"))
        slow.connections[0].session.receive = deliver
        for received in held:
            deliver(received)
        await until(lambda: sum(lost) == 30)
        await sender.await_reply(sender.multicast_soon("room", "again"))
        await until(lambda: "again" in got)
        return replies, reply, got, lost, slow.router.counters.lost

    replies, reply, got, _, counted = run(scenario())
    assert [tuple(reply[:2]) for reply in replies] == [(1, 0)] * 20 + [(0, 1)] * 30
    assert reply == b"FULL"
    assert got == [*range(20), "again"]
    assert counted == 30


def test_processes_that_come_and_go_leave_nothing(server, make_client, run):
    async def scenario():
        watching = make_client()
        await watching.await_reply(watching.multicast_soon("room", "x"))
        for number in range(30):
            visitor = make_client()
            local = visitor.router.add(print).local
            await visitor.await_reply(visitor.join(f"room-{number}", local))
            await visitor.await_reply(visitor.consume(f"work-{number}", print, 1))
            if number % 3:
                if (closing := visitor.close()) is not None:
                    await closing
            else:
                visitor.abort()  # as kill -9 does
        last = make_client()
        await last.await_reply(last.unicast_soon(watching.router.add(print), "x"))
        figures = [None]

        async def only_the_living() -> bool:
            figures[0] = (await asyncio.gather(*map(last.await_reply, last.status())))[0]
            return len(figures[0][0]) == 2 and not figures[0][1] and not figures[0][2]

        while not await only_the_living():
            await asyncio.sleep(0.01)
        return {row[0].decode() for row in figures[0][0]}, {watching.inbox, last.inbox}

    there, alive = run(scenario())
    assert there == alive


def test_an_answer_that_is_an_error_reaches_the_caller(make_client, run):
    async def scenario():
        one = make_client()
        with pytest.raises(GredisError, match="refused"):
            await one.await_reply(one.connections[0].session.call("trim"))
        return await one.await_reply(one.multicast_soon("room", "line"))

    assert run(scenario())[:2] == [0, 0]
