"""A task that receives from its connection: to asyncio it waits as any task does."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from asyncio import events
from contextvars import ContextVar

import gevent
import pytest

from tests.thyme.patched import run_patched
from tests.thyme.peer import WEBSOCKET, Peer
from tests.thyme.serving import eventually
from thyme.errors import Disconnected
from thyme.loop.bridge import adapt
from thyme.loop.shared import close_shared_loop, shared_loop


@pytest.fixture(autouse=True)
def _closed_loop():
    yield
    close_shared_loop()


def connected(application, scope=WEBSOCKET):
    """A peer of the application, whose task waits for what the peer says."""
    shared_loop()
    gevent.sleep(0)  # the loop waits
    peer = Peer(adapt(application), scope)
    gevent.sleep(0)
    return peer


def in_the_loop(call):
    """Call this in the loop's greenlet, and wait for that."""
    called = gevent.event.Event()
    shared_loop().call_soon_threadsafe(lambda: (call(), called.set()))
    assert called.wait(30)


def test_meanwhile_nobody_else_sees_the_loop_and_its_other_tasks_run():
    seen, hooks = [], sys.get_asyncgen_hooks()

    async def other():
        seen.append((asyncio.current_task(), asyncio.get_running_loop()))

    async def application(scope, receive, send):
        task = asyncio.create_task(other())
        await receive()
        assert seen == [(task, shared_loop())]
        assert asyncio.current_task() is me()
        assert asyncio.get_running_loop() is shared_loop()
        await send(await receive())

    def me():
        return next(iter(asyncio.all_tasks(shared_loop())))

    peer = connected(application)
    assert events._get_running_loop() is None
    assert asyncio.current_task(shared_loop()) is None
    assert sys.get_asyncgen_hooks() == hooks
    assert not {"switch", "throw", "switch_out"} & set(vars(peer.greenlet))
    eventually(lambda: seen)
    peer.say("a")
    peer.say("b")
    assert peer.end() == [{"type": "websocket.receive", "text": "b"}]
    assert events._get_running_loop() is None
    assert sys.get_asyncgen_hooks() == hooks


def test_its_context_is_its_own():
    name = ContextVar("name", default="outside")
    seen = []

    async def application(scope, receive, send):
        name.set((await receive())["text"])
        await receive()
        seen.append(name.get())

    peers = [connected(application) for _ in range(2)]
    for peer, text in zip(peers, "ab", strict=True):
        peer.say(text)
    gevent.sleep(0)
    assert name.get() == "outside"
    for peer in peers:
        peer.say("go on")
        peer.end()
    assert seen == ["a", "b"]


def test_a_time_out_ends_its_wait_and_nothing_else():
    async def application(scope, receive, send):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await receive()
            assert asyncio.current_task().cancelling() == 0
            await asyncio.sleep(0)
        await send({"type": "ready"})
        async with asyncio.timeout(30):
            await send(await receive())
            await send(await receive())

    peer = connected(application)
    assert peer.next() == {"type": "ready"}
    peer.say("one")
    peer.say("two")
    assert [peer.next()["text"], peer.next()["text"]] == ["one", "two"]
    peer.end()


def test_it_can_be_cancelled_with_a_message_and_go_on():
    tasks = []

    async def application(scope, receive, send):
        tasks.append(asyncio.current_task())
        try:
            await receive()
        except asyncio.CancelledError as cancelled:
            await send({"type": "x", "said": cancelled.args})
        assert asyncio.current_task().uncancel() == 0
        await send(await receive())

    peer = connected(application)
    in_the_loop(lambda: tasks[0].cancel("enough"))
    said = peer.next()["said"]
    assert said == ("enough",)
    peer.say("a")
    assert peer.next()["text"] == "a"
    peer.end()


def test_a_cancelled_task_ends_its_connection():
    tasks = []

    async def application(scope, receive, send):
        tasks.append(asyncio.current_task())
        await receive()

    peer = connected(application)
    in_the_loop(lambda: tasks[0].cancel())
    peer.end()
    assert tasks[0].cancelled()


@pytest.mark.parametrize("when", ["before", "with"])
def test_an_event_that_comes_with_a_cancellation_is_not_lost(when):
    tasks = []

    async def application(scope, receive, send):
        tasks.append(asyncio.current_task())
        with contextlib.suppress(asyncio.CancelledError):
            await receive()
        await send(await receive())

    peer = connected(application)
    if when == "before":
        peer.say("a")
    shared_loop().call_soon_threadsafe(tasks[0].cancel)
    if when == "with":
        peer.say("a")
    assert peer.next()["text"] == "a"
    peer.end()


def test_one_that_has_cancelled_itself_does_not_wait():
    async def application(scope, receive, send):
        await receive()
        asyncio.current_task().cancel()
        with pytest.raises(asyncio.CancelledError):
            await receive()
        await send(await receive())

    peer = connected(application)
    peer.say("a")
    gevent.sleep(0)
    peer.say("b")
    assert peer.next()["text"] == "b"
    peer.end()


def test_a_failing_sister_in_its_group_ends_its_wait():
    async def fails():
        await asyncio.sleep(0.01)
        raise KeyError("sister")

    async def application(scope, receive, send):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await receive()
        except* KeyError:
            await send({"type": "failed"})
        await send(await receive())

    peer = connected(application)
    assert peer.next() == {"type": "failed"}
    peer.say("a")
    assert peer.next()["text"] == "a"
    peer.end()


def test_a_killed_connection_cancels_it():
    ended = []

    async def application(scope, receive, send):
        try:
            await receive()
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            ended.append("cancelled")
            raise

    peer = connected(application)
    peer.greenlet.kill(timeout=30)
    assert isinstance(peer.greenlet.value, gevent.GreenletExit)
    eventually(lambda: ended)


def test_an_error_of_receiving_is_the_tasks():
    async def application(scope, receive, send):
        with pytest.raises(Disconnected):
            await receive()

    def receive():
        gevent.sleep(0.001)
        raise Disconnected("the peer has gone")

    gevent.spawn(adapt(application), dict(WEBSOCKET), receive, print).get(timeout=30)


def test_while_a_task_blocks_the_others_stand_still():
    """asyncio's promise: between two `await`s nobody else runs, also when greenlets do."""
    order, going_on = [], gevent.event.Event()

    async def blocks():
        me = asyncio.current_task()
        order.append("blocks")
        going_on.wait(30)
        assert asyncio.current_task() is me
        assert asyncio.get_running_loop() is shared_loop()
        order.append("goes on")

    async def application(scope, receive, send):
        order.append((await receive())["text"])
        order.append((await receive())["text"])

    peers = [connected(application) for _ in range(2)]
    shared_loop().call_soon_threadsafe(lambda: tasks.append(shared_loop().create_task(blocks())))
    tasks = []
    eventually(lambda: order)
    for peer in peers:
        peer.say("a")
        peer.say("b")
    gevent.sleep(0.01)
    assert order == ["blocks"]
    going_on.set()
    for peer in peers:
        peer.end()
    assert order[:2] == ["blocks", "goes on"]
    assert sorted(order[2:]) == ["a", "a", "b", "b"]
    assert tasks[0].exception() is None


def test_who_receives_beside_it_gets_the_next_event():
    got = []

    async def beside(receive):
        got.append(("beside", (await receive())["text"]))

    async def application(scope, receive, send):
        task = asyncio.create_task(beside(receive))
        got.append(("application", (await receive())["text"]))
        await task
        got.append(("application", (await receive())["text"]))

    peer = connected(application)
    gevent.sleep(0.01)
    for text in "abc":
        peer.say(text)
    peer.end()
    assert got == [("application", "a"), ("beside", "b"), ("application", "c")]


def test_a_loop_that_is_closed_ends_it():
    ended = []

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            ended.append(True)

    peer = connected(application)
    close_shared_loop()
    assert ended
    peer.end()


def test_a_loop_that_is_put_into_debug_mode_meanwhile_goes_on_with_it():
    async def application(scope, receive, send):
        for _ in range(3):
            await send(await receive())

    peer = connected(application)
    shared_loop().set_debug(True)
    for text in "abc":
        peer.say(text)
    assert [peer.next()["text"] for _ in "abc"] == ["a", "b", "c"]
    peer.end()


def test_an_event_that_it_leaves_at_its_cancellation_goes_to_who_waits_beside_it():
    got, tasks = [], []

    async def application(scope, receive, send):
        tasks.append(asyncio.current_task())
        beside = asyncio.create_task(receive())
        with contextlib.suppress(asyncio.CancelledError):
            await receive()
        got.append((await beside)["text"])

    peer = connected(application)
    gevent.sleep(0.01)
    peer.say("a")
    shared_loop().call_soon_threadsafe(tasks[0].cancel)
    peer.end()
    assert got == ["a"]


def test_an_error_of_receiving_goes_to_one_of_those_who_wait():
    got, errors = [], gevent.queue.SimpleQueue()

    async def waits(receive):
        try:
            got.append(await receive())
        except Disconnected:
            got.append("gone")

    async def application(scope, receive, send):
        beside = asyncio.create_task(waits(receive))
        await waits(receive)
        await beside

    def receive():
        event = errors.get()
        if isinstance(event, Exception):
            raise event
        return event

    shared_loop()
    gevent.sleep(0)
    greenlet = gevent.spawn(adapt(application), dict(WEBSOCKET), receive, print)
    gevent.sleep(0.01)
    errors.put(Disconnected("the peer has gone"))
    eventually(lambda: got)
    errors.put("an event")
    greenlet.get(timeout=30)
    assert sorted(got) == ["an event", "gone"]


def test_a_kill_that_it_swallows_ends_the_connection_all_the_same():
    swallowed = []

    async def application(scope, receive, send):
        while True:
            await receive()
            try:
                gevent.sleep(60)  # a synchronous call of the application
            except gevent.GreenletExit as killed:
                swallowed.append(killed)

    peer = connected(application)
    peer.say("a")
    gevent.sleep(0)
    peer.greenlet.kill(timeout=30)
    assert peer.greenlet.dead
    assert len(swallowed) == 1


def test_another_task_may_run_in_its_context_meanwhile():
    ran = []

    async def child():
        ran.append(True)

    async def application(scope, receive, send):
        context = gevent.getcurrent().gr_context
        task = asyncio.create_task(child(), context=context)
        await receive()
        await task

    peer = connected(application)
    eventually(lambda: ran)
    peer.say("a")
    peer.end()


def test_who_asks_and_gives_up_leaves_nothing_and_reads_nothing():
    kept = []

    async def application(scope, receive, send):
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(receive(), 0.0001)
        kept.append(len(receive.__self__._waiting))
        await receive()
        await asyncio.sleep(0.01)
        await send({"type": "x"})

    peer = connected(application)
    eventually(lambda: kept)
    peer.say("a")
    peer.say("b")
    assert peer.next() == {"type": "x"}
    peer.end()
    assert kept == [0]
    assert peer.incoming.qsize() == 1


DEBUGGED = """
import asyncio, gevent
from tests.thyme.peer import WEBSOCKET, Peer
from thyme.loop.bridge import adapt
from thyme.loop.shared import shared_loop

tasks = []

async def application(scope, receive, send):
    tasks.append(asyncio.current_task())
    await receive()

shared_loop()
gevent.sleep(0)
peer = Peer(adapt(application), WEBSOCKET)
gevent.sleep(0)
shared_loop().set_debug(True)
shared_loop().call_soon_threadsafe(tasks[0].cancel)
peer.end()
print(tasks[0].cancelled())
"""


def test_debug_mode_does_not_keep_a_cancelled_task_from_ending():
    assert run_patched(DEBUGGED) == "True"


def test_a_cancellation_that_is_taken_back_at_once_has_still_ended_the_wait():
    """As with asyncio's own waits: what the task waited for has been cancelled."""
    tasks, ended = [], []

    async def application(scope, receive, send):
        tasks.append(asyncio.current_task())
        try:
            await receive()
        except asyncio.CancelledError:
            ended.append(True)

    peer = connected(application)
    in_the_loop(lambda: (tasks[0].cancel(), tasks[0].uncancel()))
    peer.end()
    assert ended


def test_a_task_factory_makes_the_task_of_a_connection_too():
    made = []

    def factory(loop, coroutine, **options):
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def application(scope, receive, send):
        await receive()

    shared_loop().set_task_factory(factory)
    peer = connected(application)
    peer.say("a")
    peer.end()
    assert len(made) == 1


class Awaitable:
    """An application whose call is no coroutine, but can be awaited."""

    def __init__(self, scope, receive, send):
        self.arguments = scope, receive, send

    async def __call__(self):
        """Not what the server calls."""

    def __await__(self):
        return echo_once(*self.arguments).__await__()


async def echo_once(scope, receive, send):
    await send(await receive())


@pytest.mark.parametrize(
    "application",
    [Awaitable, lambda *arguments: asyncio.ensure_future(echo_once(*arguments))],
    ids=["class", "future"],
)
def test_what_an_application_returns_need_not_be_a_coroutine(application):
    peer = connected(application)
    peer.say("a")
    assert peer.next()["text"] == "a"
    peer.end()


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_meanwhile_each_event_is_received_once(seed):
    """Time-outs, cancellations, tasks that block, and others that receive, at random."""
    chance = random.Random(seed)
    count, tasks, got = 60, [], []

    async def application(scope, receive, send):
        tasks.append(asyncio.current_task())
        beside = None
        while not got or got[-1]["type"] != "websocket.disconnect":
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                if beside is not None or chance.random() < 0.2:
                    beside = beside or asyncio.create_task(receive())
                    got.append(await asyncio.shield(beside))
                    beside = None
                elif chance.random() < 0.3:
                    async with asyncio.timeout(chance.choice([0, 0.001])):
                        got.append(await receive())
                else:
                    got.append(await receive())
            assert asyncio.current_task() is tasks[0]
            while tasks[0].cancelling():
                tasks[0].uncancel()

    async def blocks():
        me = asyncio.current_task()
        gevent.sleep(chance.choice([0, 0.001]))
        assert asyncio.current_task() is me

    def disturb(loop):
        what = chance.random()
        if what < 0.3:
            others.append(loop.create_task(blocks()))
        elif what < 0.6:
            tasks[0].cancel()

    others = []
    peer = connected(application)
    for number in range(count):
        shared_loop().call_soon_threadsafe(disturb, shared_loop())
        if chance.random() < 0.5:
            gevent.sleep(chance.choice([0, 0, 0.001]))
        peer.say(str(number))
    peer.leave()
    peer.end()
    assert [event["text"] for event in got[:-1]] == [str(number) for number in range(count)]
    assert all(task.exception() is None for task in others if task.done())
