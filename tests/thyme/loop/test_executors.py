"""Executors of greenlets."""

import asyncio
import concurrent.futures
import weakref

import gevent
import pytest

from thyme.loop.event_loop import HubLoop
from thyme.loop.executors import GreenletExecutor, SerialExecutor


def test_jobs_of_one_connection_run_in_order_in_one_greenlet():
    executor, seen = SerialExecutor(), []

    def job(number: int) -> int:
        gevent.sleep(0.002 - number * 0.001)
        seen.append((number, gevent.getcurrent()))
        return number

    futures = [executor.submit(job, number) for number in range(3)]
    executor.shutdown()
    assert [future.result() for future in futures] == [0, 1, 2]
    assert [number for number, _ in seen] == [0, 1, 2]
    assert len({greenlet for _, greenlet in seen}) == 1


def test_jobs_of_different_executors_overlap():
    events: list[str] = []

    def job(name: str, mine: gevent.event.Event, other: gevent.event.Event) -> None:
        mine.set()
        other.wait()
        events.append(name)

    one, two = gevent.event.Event(), gevent.event.Event()
    first, second = SerialExecutor(), SerialExecutor()
    first.submit(job, "one", one, two)
    second.submit(job, "two", two, one)
    with gevent.Timeout(30):
        first.shutdown()
        second.shutdown()
    assert sorted(events) == ["one", "two"]


@pytest.mark.parametrize("executor", [SerialExecutor(), GreenletExecutor()])
def test_an_error_of_a_job_is_in_its_future(executor):
    future = executor.submit(lambda: 1 // 0)
    executor.shutdown()
    assert isinstance(future.exception(), ZeroDivisionError)


@pytest.mark.parametrize("make", [SerialExecutor, GreenletExecutor])
def test_nothing_is_taken_after_shutdown(make):
    executor = make()
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(print)


def test_a_cancelled_job_does_not_run():
    executor, ran = SerialExecutor(), []
    future = executor.submit(ran.append, 1)
    future.cancel()
    executor.shutdown()
    assert ran == []


def test_a_greenlet_executor_runs_all_jobs_at_the_same_time():
    executor, gate = GreenletExecutor(), gevent.event.Event()
    waiting = [executor.submit(gate.wait) for _ in range(100)]
    gate_opener = executor.submit(gate.set)
    with gevent.Timeout(30):
        executor.shutdown()
    assert gate_opener.done()
    assert all(future.result() for future in waiting)


def test_a_killed_executor_cancels_what_is_queued_and_takes_no_more():
    executor = SerialExecutor()
    running, queued = executor.submit(gevent.sleep, 10), executor.submit(int)
    gevent.sleep(0)
    executor.greenlet.kill()
    assert isinstance(running.exception(0), gevent.GreenletExit)
    assert queued.cancelled()
    with pytest.raises(RuntimeError):
        executor.submit(int)


def test_an_idle_executor_keeps_nothing_of_its_last_job():
    class Thing:
        pass

    thing, executor = Thing(), SerialExecutor()
    gone = weakref.ref(thing)
    executor.submit(id, thing)
    del thing
    gevent.sleep(0)
    assert gone() is None
    executor.shutdown()


# -- awaited on a loop


@pytest.fixture(params=[False, True], ids=["", "debug"])
def runner(request):
    with asyncio.Runner(loop_factory=HubLoop, debug=request.param) as runner:
        yield runner


@pytest.mark.parametrize("executor", [SerialExecutor(), GreenletExecutor()])
def test_a_coroutine_awaits_a_job_and_gets_its_result_or_error(runner, executor):
    def fail(error: BaseException) -> None:
        gevent.sleep(0)
        raise error

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, max, 1, 2) == 2
        for given, raised in (
            (KeyError("mine"), KeyError),
            (StopIteration(), RuntimeError),  # as from Python 3.12 on: a future refuses it
            (concurrent.futures.CancelledError(), asyncio.CancelledError),
        ):
            with pytest.raises(raised):
                await loop.run_in_executor(executor, fail, given)

    runner.run(main())


def test_a_cancelled_wait_takes_a_queued_job_away_but_not_one_that_runs(runner):
    done: list[str] = []

    async def main() -> None:
        loop, executor = asyncio.get_running_loop(), SerialExecutor()
        release = gevent.event.Event()

        started = asyncio.Event()

        def first() -> None:
            loop.call_soon_threadsafe(started.set)
            release.wait()
            done.append("first")

        running = loop.run_in_executor(executor, first)
        queued = loop.run_in_executor(executor, done.append, "second")
        await started.wait()
        running.cancel()
        queued.cancel()
        release.set()
        await loop.run_in_executor(executor, done.append, "third")

    runner.run(main())
    assert done == ["first", "third"]


def test_a_killed_executor_cancels_those_who_await_it(runner):
    async def main() -> None:
        loop, executor = asyncio.get_running_loop(), SerialExecutor()
        started = asyncio.Event()

        def forever() -> None:
            loop.call_soon_threadsafe(started.set)
            gevent.sleep(60)

        running = loop.run_in_executor(executor, forever)
        queued = loop.run_in_executor(executor, print)
        await started.wait()
        assert executor.greenlet is not None
        executor.greenlet.kill(block=False)
        with pytest.raises(gevent.GreenletExit):
            await running
        with pytest.raises(asyncio.CancelledError):
            await queued

    runner.run(main())


def test_a_job_may_end_after_the_loop_that_awaited_it():
    release, executor = gevent.event.Event(), SerialExecutor()
    loop = HubLoop()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(executor, release.wait)

    loop.run_until_complete(main())
    loop.close()
    release.set()
    executor.shutdown()
    assert executor.greenlet is not None
    assert executor.greenlet.successful()
