"""The loop that owns "the running loop" only while its greenlet runs.

What needs a patched process runs in a child (`patched.py`); the rest here, unpatched, as in a
notebook.
"""

from __future__ import annotations

import asyncio
import socket
import threading

import gevent
import pytest

from tests.thyme.patched import run_patched
from thyme.loop import HubLoop, close_shared_loop, shared_loop


@pytest.fixture
def runner():
    with asyncio.Runner(loop_factory=HubLoop) as runner:
        yield runner


# -- who owns the running loop

LEAKS = """
    import asyncio, time, gevent
    leaks = checks = 0

    def other():
        global leaks, checks
        while not done:
            checks += 1
            try:
                asyncio.get_running_loop()
                leaks += 1
            except RuntimeError:
                pass
            gevent.sleep(0)

    async def main():
        me = asyncio.current_task()
        for _ in range(300):
            time.sleep(0.0005)         # blocks this coroutine in the hub
            assert asyncio.current_task() is me
            await asyncio.sleep(0.0002)
            assert asyncio.get_running_loop() is loop_of[me]

    loop_of, done = {}, False

    async def remember():
        loop_of[asyncio.current_task()] = asyncio.get_running_loop()
        await main()

    others = [gevent.spawn(other) for _ in range(3)]
    gevent.joinall([gevent.spawn(asyncio.run, remember()) for _ in range(3)], raise_error=True)
    done = True
    gevent.joinall(others)
    print(leaks > 0, checks > 100)
"""


def test_no_other_greenlet_ever_sees_the_running_loop():
    assert run_patched(LEAKS) == "False True"


def test_the_stock_loop_is_seen_by_all():
    # The complaint that this loop answers; with three stock loops at once, even asyncio.run fails.
    source = LEAKS.replace("range(3)], raise_error=True", "range(1)], raise_error=True")
    assert run_patched(source, install=False) == "True True"


ASYNC_TO_SYNC = """
    import asyncio, gevent
    from asgiref.sync import async_to_sync, sync_to_async

    async def background():
        await asyncio.sleep(0.2)

    async def question():
        await asyncio.sleep(0.001)
        return await sync_to_async(lambda: 42)()

    running = gevent.spawn(asyncio.run, background())
    gevent.sleep(0.02)
    try:
        print(async_to_sync(question)())
    except RuntimeError as error:
        print(error)
    running.join()
"""


def test_async_to_sync_works_in_one_greenlet_while_a_loop_runs_in_another():
    assert run_patched(ASYNC_TO_SYNC) == "42"


def test_without_install_async_to_sync_refuses():
    assert "You cannot use AsyncToSync" in run_patched(ASYNC_TO_SYNC, install=False)


ORM = """
    import asyncio, gevent, django
    from django.conf import settings
    settings.configure(DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
    django.setup()
    from django.core.exceptions import SynchronousOnlyOperation
    from django.db import connection

    running = gevent.spawn(asyncio.run, asyncio.sleep(0.2))
    gevent.sleep(0.02)
    try:
        with connection.cursor() as cursor:
            print(cursor.execute("SELECT 42").fetchone()[0])
    except SynchronousOnlyOperation as error:
        print("SynchronousOnlyOperation")
    running.join()
    connection.close()
"""


def test_the_orm_works_in_one_greenlet_while_a_loop_runs_in_another():
    assert run_patched(ORM) == "42"


def test_without_install_the_orm_raises_synchronous_only_operation():
    assert run_patched(ORM, install=False) == "SynchronousOnlyOperation"


def test_a_coroutine_still_may_not_use_the_orm():
    source = ORM.replace(
        "running = gevent.spawn(asyncio.run, asyncio.sleep(0.2))",
        "running = gevent.spawn(lambda: None)",
    ).replace(
        'with connection.cursor() as cursor:\n            print(cursor.execute("SELECT 42").fetchone()[0])',
        "async def main(): connection.cursor()\n        asyncio.run(main())",
    )
    assert run_patched(source) == "SynchronousOnlyOperation"


def test_async_generators_are_closed_by_the_loop_that_they_belong_to():
    source = """
        import asyncio, gevent, sys
        closed = []

        async def numbers(name):
            try:
                for number in range(10):
                    yield number
            finally:
                await asyncio.sleep(0)
                closed.append((name, asyncio.get_running_loop() is loops[name]))

        loops, kept = {}, {}

        async def main(name):
            loops[name] = asyncio.get_running_loop()
            kept[name] = generator = numbers(name)   # so asyncio.run has to close it
            async for number in generator:
                gevent.sleep(0.001)
                if number == 3:
                    break

        gevent.joinall([gevent.spawn(asyncio.run, main(n)) for n in "abc"], raise_error=True)
        print(sorted(closed), sys.get_asyncgen_hooks()[:2])
    """
    assert run_patched(source) == ("[('a', True), ('b', True), ('c', True)] (None, None)")


# -- what applications use


def test_tasks_groups_timeouts_queues_and_locks(runner):
    async def scenario():
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        lock, got = asyncio.Lock(), []

        async def produce():
            for number in range(5):
                await queue.put(number)

        async def consume():
            for _ in range(5):
                async with lock:
                    got.append(await queue.get())

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(consume())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        done, pending = await asyncio.wait(
            [asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(asyncio.sleep(10))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in pending:
            task.cancel()
        return got, len(done), len(pending)

    assert runner.run(scenario()) == ([0, 1, 2, 3, 4], 1, 1)


def test_streams_and_servers(runner):
    async def scenario():
        async def echo(reader, writer):
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

    assert runner.run(scenario()) == b"HELLO\n"


def test_add_reader_reports_until_it_is_read(runner):
    one, two = socket.socketpair()
    with one, two:

        async def scenario():
            loop, calls = asyncio.get_running_loop(), []
            done = loop.create_future()

            def readable():
                calls.append(1)
                if len(calls) == 3:
                    one.recv(10)
                    loop.remove_reader(one)
                    done.set_result(len(calls))

            loop.add_reader(one, readable)
            two.send(b"x")
            return await done

        assert runner.run(scenario()) == 3


def test_call_soon_threadsafe_wakes_from_a_greenlet_and_from_a_native_thread(runner):
    async def scenario():
        loop = asyncio.get_running_loop()
        from_thread, from_greenlet = loop.create_future(), loop.create_future()
        thread = threading.Thread(
            target=lambda: loop.call_soon_threadsafe(from_thread.set_result, 1)
        )
        gevent.spawn(loop.call_soon_threadsafe, from_greenlet.set_result, 2)
        thread.start()
        results = await from_thread, await from_greenlet
        thread.join()
        return results

    assert runner.run(scenario()) == (1, 2)


def test_to_thread_and_run_in_executor(runner):
    async def scenario():
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(threading.get_native_id), await loop.run_in_executor(
            None, lambda: 7
        )

    thread, seven = runner.run(scenario())
    assert thread != threading.get_native_id()
    assert seven == 7


def test_in_a_patched_process_to_thread_runs_in_a_greenlet_without_a_bound():
    source = """
        import asyncio, gevent
        async def main():
            gate = gevent.event.Event()
            async with asyncio.TaskGroup() as group:
                for _ in range(100):
                    group.create_task(asyncio.to_thread(gate.wait))
                group.create_task(asyncio.to_thread(gate.set))
        asyncio.run(main())
        print("done")
    """
    assert run_patched(source) == "done"


def test_subprocesses():
    source = """
        import asyncio
        async def main():
            child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            out, _ = await child.communicate(b"hello")
            failed = await asyncio.create_subprocess_exec("false")
            return out, child.returncode, await failed.wait()
        print(asyncio.run(main()))
    """
    assert run_patched(source) == "(b'hello', 0, 1)"


def test_signal_handlers():
    source = """
        import asyncio, os, signal
        async def main():
            loop, came = asyncio.get_running_loop(), asyncio.Event()
            loop.add_signal_handler(signal.SIGUSR1, came.set)
            loop.call_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
            await asyncio.wait_for(came.wait(), 5)
            return loop.remove_signal_handler(signal.SIGUSR1)
        print(asyncio.run(main()))
    """
    assert run_patched(source) == "True"


def test_cancellation_and_exceptions_reach_the_caller(runner):
    async def fails():
        await asyncio.sleep(0)
        raise KeyError("x")

    async def cancelled():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    with pytest.raises(KeyError):
        runner.run(fails())
    with pytest.raises(asyncio.CancelledError):
        runner.run(cancelled())


def test_a_timeout_of_gevent_ends_asyncio_run(runner):
    ended = []

    async def scenario():
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(True)

    with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
        runner.run(scenario())
    runner.close()
    assert ended == [True]


def test_a_running_loop_cannot_be_run_again(runner):
    async def scenario():
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop().run_forever()

    runner.run(scenario())


def test_debug_mode_names_a_coroutine_that_blocks(caplog):
    async def sluggish():
        gevent.sleep(0.15)

    with asyncio.Runner(debug=True, loop_factory=HubLoop) as runner:
        runner.run(sluggish())
    assert any("sluggish" in r.getMessage() and "took" in r.getMessage() for r in caplog.records)


def test_a_coroutine_that_blocks_holds_up_only_its_own_loop(runner):
    turns = []

    def others():
        while not turns or turns[-1] != "stop":
            turns.append("turn")
            gevent.sleep(0.001)

    async def scenario():
        gevent.sleep(0.05)

    greenlet = gevent.spawn(others)
    runner.run(scenario())
    turns.append("stop")
    greenlet.join()
    assert turns.count("turn") > 5


def test_a_busy_loop_lets_other_greenlets_run(runner):
    turns = []

    async def busy():
        while len(turns) < 5:
            await asyncio.sleep(0)

    def others():
        while len(turns) < 5:
            turns.append(1)
            gevent.sleep(0)

    greenlet = gevent.spawn(others)
    with gevent.Timeout(10):
        runner.run(busy())
    greenlet.join()


def test_the_shared_loop_is_one_per_thread_and_can_be_closed():
    loop = shared_loop()
    assert shared_loop() is loop
    gevent.sleep(0)
    close_shared_loop()
    assert loop.is_closed()
    assert shared_loop() is not loop
    close_shared_loop()
