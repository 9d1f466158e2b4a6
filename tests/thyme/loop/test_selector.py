"""How the loop waits: what it reports, whom it lets run, and that it leaves nothing in the hub."""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import socket
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import gevent
import pytest
from gevent import socket as green

from tests.thyme.patched import run_patched
from thyme.loop.event_loop import HubLoop
from thyme.loop.selector import HubSelector


@pytest.fixture
def pair():
    one, two = socket.socketpair()
    one.setblocking(False)
    with one, two:
        yield one, two


@pytest.fixture
def loop():
    loop = HubLoop()
    yield loop
    loop.close()


# -- registering


def test_what_is_wrong_to_register_is_wrong_as_with_the_standard_library(pair):
    selector, one = HubSelector(), pair[0]
    selector.register(one, selectors.EVENT_READ)
    with pytest.raises(KeyError):
        selector.register(one, selectors.EVENT_WRITE)
    with pytest.raises(KeyError):
        selector.unregister(pair[1])
    for nonsense in (0, 4):
        with pytest.raises(ValueError, match="Invalid events"):
            selector.register(pair[1], nonsense)
    with pytest.raises(ValueError, match="Invalid file"):
        selector.register("a name", selectors.EVENT_READ)
    selector.close()


def test_a_closed_descriptor_cannot_be_watched_and_is_not_registered(loop):
    number = 9_999  # of none that is open

    async def scenario():
        with pytest.raises(ValueError, match="Invalid file descriptor"):
            loop.add_reader(number, print)
        return loop._selector.get_map().get(number)

    assert loop.run_until_complete(scenario()) is None


def test_readers_may_be_named_by_object_or_number_replaced_and_removed(loop, pair):
    one = pair[0]
    loop.add_reader(one, print, "replaced")
    loop.add_reader(one.fileno(), print)
    loop.add_writer(one, print)
    assert [loop.remove_reader(one), loop.remove_reader(one)] == [True, False]
    assert [loop.remove_writer(one.fileno()), loop.remove_writer(one)] == [True, False]


def test_a_descriptor_closed_between_two_runs_is_forgotten(loop):
    one, two = socket.socketpair()
    loop.add_reader(one, print)
    one.close()
    two.close()
    assert loop.run_until_complete(asyncio.sleep(0, "runs")) == "runs"
    assert loop.remove_reader(one)


# -- reporting


def test_a_reader_is_called_until_all_is_read(loop, pair):
    calls = []

    def read_one_byte():
        calls.append(pair[0].recv(1))
        if len(calls) == 3:
            loop.stop()

    loop.add_reader(pair[0], read_one_byte)
    pair[1].send(b"abc")
    loop.run_forever()
    assert calls == [b"a", b"b", b"c"]


def test_reader_and_writer_of_one_descriptor_are_both_called(loop, pair):
    calls = []
    loop.add_reader(pair[0], lambda: (calls.append(pair[0].recv(9)), loop.stop()))
    loop.add_writer(pair[0], lambda: (calls.append("w"), loop.remove_writer(pair[0])))
    pair[1].send(b"r")
    loop.run_forever()
    assert sorted(calls, key=str) == [b"r", "w"]


def test_stop_and_run_forever_looks_at_the_descriptors_once(loop, pair):
    # The asyncio documentation's way to poll; loop.stop() before loop.run_forever().
    calls = []
    loop.add_reader(pair[0], lambda: calls.append(pair[0].recv(9)))
    for data in (b"one", b"two"):
        pair[1].send(data)
        loop.stop()
        loop.run_forever()
    assert calls == [b"one", b"two"]


def test_a_coroutine_that_blocks_does_not_let_unread_data_spin_the_hub(loop, pair):
    reports, reported = [], loop._selector._on_ready
    loop._selector._on_ready = lambda *event: (reports.append(event), reported(*event))
    loop.add_reader(pair[0], lambda: read.set_result(pair[0].recv(9)))
    read = loop.create_future()

    async def scenario():
        pair[1].send(b"x")
        for _ in range(20):
            gevent.sleep(0.001)  # blocks the loop, not the hub
        return len(reports), await read

    assert loop.run_until_complete(scenario()) == (1, b"x")


def test_what_is_removed_or_replaced_before_the_loop_goes_on_is_not_reported(loop, pair):
    calls = []
    loop.add_reader(pair[0], calls.append, "removed")
    loop.add_reader(pair[1], calls.append, "replaced")

    async def scenario():
        pair[0].send(b"x")
        pair[1].send(b"y")
        gevent.sleep(0.001)  # the hub has seen both; the loop is blocked
        loop.remove_reader(pair[0])
        loop.add_reader(pair[1], calls.append, "new")
        await asyncio.sleep(0.001)
        loop.remove_reader(pair[1])

    loop.run_until_complete(scenario())
    assert set(calls) == {"new"}


def test_the_end_of_a_pipe_is_seen_in_a_patched_process():
    # gevent's os.close() closes later, and the hub would go to sleep before.
    source = """
        import asyncio, os
        async def main():
            loop, ended, (reading, writing) = asyncio.get_running_loop(), asyncio.Event(), os.pipe()
            loop.add_reader(reading, ended.set)
            await asyncio.sleep(0)
            os.close(writing)
            await asyncio.wait_for(ended.wait(), 30)
            loop.remove_reader(reading)
            return os.read(reading, 1)
        print(asyncio.run(main()))
    """
    assert run_patched(source) == "b''"


# -- letting others run


@pytest.mark.parametrize("wakes_itself", [False, True])
def test_a_busy_loop_lets_other_greenlets_run(loop, wakes_itself):
    deadline = time.monotonic() + 30
    others = gevent.spawn(lambda: [gevent.sleep(0) for _ in range(5)])

    async def busy():
        while not others.ready():
            assert time.monotonic() < deadline
            if wakes_itself:
                loop.call_soon_threadsafe(int)
            await asyncio.sleep(0)

    loop.run_until_complete(busy())


def test_a_busy_loop_lets_other_greenlets_have_their_data(loop):
    # 400 waits for a socket. The loop turns some hundred times in each; it would turn twenty
    # thousand times if the hub asked the kernel every 50 ms only.
    one, two = green.socketpair()
    answering = gevent.spawn(lambda: [two.send(two.recv(1)) for _ in range(200)])
    asking = gevent.spawn(lambda: [one.send(b"x") and one.recv(1) for _ in range(200)])

    async def busy():
        turns = 0
        while not asking.ready():
            turns += 1
            await asyncio.sleep(0)
        return turns

    with one, two, gevent.Timeout(60):
        assert loop.run_until_complete(busy()) < 400 * 4000
        gevent.joinall([answering, asking], raise_error=True)


# -- leaving nothing


def left_behind() -> tuple[int, ...]:
    """How many descriptors, active watchers, greenlets and loops this process has."""
    gc.collect()
    # By type(): `isinstance` would ask lazy objects of other tests what they are, and wake them.
    kinds = [type(thing) for thing in gc.get_objects()]
    greenlets = sum(issubclass(kind, gevent.Greenlet) for kind in kinds)
    loops = sum(issubclass(kind, HubLoop) for kind in kinds)
    return len(os.listdir("/proc/self/fd")), gevent.get_hub().loop.activecnt, greenlets, loops


async def use_everything():
    reader, writer = await asyncio.open_connection(sock=use_everything.pair[0])
    use_everything.pair[1].send(b"x")
    await reader.readexactly(1)
    await asyncio.sleep(0)
    writer.close()
    await writer.wait_closed()


def test_a_thousand_runs_leave_no_descriptor_watcher_greenlet_or_loop():
    def run(times):
        for _ in range(times):
            use_everything.pair = socket.socketpair()
            with asyncio.Runner(loop_factory=HubLoop) as runner:
                runner.run(use_everything())
            use_everything.pair[1].close()

    run(10)
    before = left_behind()
    run(1000)
    assert left_behind() == before


def test_between_its_runs_a_loop_has_nothing_in_the_hub(loop, pair):
    before = gevent.get_hub().loop.activecnt
    loop.add_reader(pair[0], print)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert gevent.get_hub().loop.activecnt == before


def test_a_forgotten_loop_is_collected_and_warns_as_asyncios(pair):
    loop = HubLoop()
    loop.add_reader(pair[0], loop.stop)  # the hub must not keep it for this
    loop.run_until_complete(asyncio.sleep(0))
    gone = weakref.ref(loop)
    del loop
    with pytest.warns(ResourceWarning, match="unclosed event loop <HubLoop"):
        gc.collect()
    assert gone() is None


# -- native threads


def test_each_native_thread_has_a_hub_and_loops_of_its_own():
    threads, calls = 4, 50
    barrier, loops, counted = threading.Barrier(threads), [], {}

    async def call_the_others():
        loop = asyncio.get_running_loop()
        counted[loop] = []
        loops.append(loop)
        await loop.run_in_executor(None, barrier.wait, 60)
        for other in loops:
            for _ in range(calls):
                other.call_soon_threadsafe(counted[other].append, 1)
        async with asyncio.timeout(60):
            while len(counted[loop]) < threads * calls:
                await asyncio.sleep(0.001)
        await loop.run_in_executor(None, barrier.wait, 60)  # none closes before all have called
        return id(gevent.get_hub())

    def work():
        with asyncio.Runner(loop_factory=HubLoop) as runner:
            return runner.run(call_the_others())

    with ThreadPoolExecutor(threads) as pool:
        hubs = {future.result() for future in [pool.submit(in_a_hub, work) for _ in range(threads)]}
    assert len(hubs) == threads


def test_a_loop_made_in_one_thread_may_run_in_another(loop):
    loop.call_soon_threadsafe(int)
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(in_a_hub, loop.run_until_complete, asyncio.sleep(0.001, "there"))
        assert there.result(30) == "there"
    assert loop.run_until_complete(asyncio.sleep(0.001, "here")) == "here"


def in_a_hub(call, *args):
    """What `call` gives in this native thread, whose hub ends with it."""
    try:
        return call(*args)
    finally:
        gevent.get_hub().destroy()
