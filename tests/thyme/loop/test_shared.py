"""The loop that all adapted applications of a thread share, and how greenlets use it."""

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync

from thyme.loop.shared import (
    close_shared_loop,
    run_on_loop,
    shared_loop,
    use_for_async_to_sync,
)


@pytest.fixture(autouse=True)
def closed_afterwards():
    yield
    close_shared_loop()


def test_a_thread_has_one_shared_loop_until_it_is_closed():
    first = shared_loop()
    assert shared_loop() is first
    close_shared_loop()
    assert first.is_closed()
    assert shared_loop() is not first


def test_each_native_thread_has_its_own():
    others = []

    def other_thread():
        others.append(shared_loop())
        close_shared_loop()

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert others[0] is not shared_loop()


def test_a_coroutine_runs_on_the_loop_and_gives_its_result_or_its_error():
    async def divide(number):
        await asyncio.sleep(0)
        return 1 / number, asyncio.get_running_loop()

    loop = shared_loop()
    assert run_on_loop(loop, divide(1)) == (1.0, loop)
    with pytest.raises(ZeroDivisionError):
        run_on_loop(loop, divide(0))


def test_a_cancelled_coroutine_raises_cancelled_error():
    async def cancels_itself():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        run_on_loop(shared_loop(), cancels_itself())


def test_async_to_sync_uses_the_loop_of_its_greenlet():
    async def which():
        return asyncio.get_running_loop()

    async def in_a_thread_of_asgiref():
        def synchronous():
            use_for_async_to_sync(loop)
            return async_to_sync(which)()

        return await asyncio.to_thread(synchronous)

    loop = shared_loop()
    assert run_on_loop(loop, in_a_thread_of_asgiref()) is loop


def test_tasks_are_cancelled_when_the_shared_loop_is_closed():
    ended = []

    async def waits():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def starts():
        started.append(asyncio.create_task(waits()))
        await asyncio.sleep(0)

    started: list[asyncio.Task[None]] = []
    run_on_loop(shared_loop(), starts())
    close_shared_loop()
    assert ended == ["cancelled"]


def test_closing_without_a_loop_is_a_no_op():
    close_shared_loop()
    close_shared_loop()
