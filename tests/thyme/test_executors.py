"""Executors of greenlets."""

import weakref

import gevent
import pytest

from thyme.executors import GreenletExecutor, SerialExecutor


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
    with gevent.Timeout(5):
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
    with gevent.Timeout(5):
        executor.shutdown()
    assert gate_opener.done()
    assert all(future.result() for future in waiting)


def test_a_killed_executor_cancels_what_is_queued_and_takes_no_more():
    executor = SerialExecutor()
    running, queued = executor.submit(gevent.sleep, 10), executor.submit(int)
    gevent.sleep(0)
    executor._greenlet.kill()
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
