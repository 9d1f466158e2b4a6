"""The loop that owns "the running loop" only while its greenlet runs. How it waits is in
test_selector.py, what other people's tests say of it in tests/oracles.

What needs a patched process runs in a child (`patched.py`); the rest here, unpatched, as in a
notebook.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import gevent
import gevent.event
import pytest
from greenlet import greenlet

from tests.thyme.patched import run_patched
from thyme.loop.event_loop import HubLoop
from thyme.loop.running import RunningLoopContext
from thyme.loop.shared import close_shared_loop, shared_loop


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
        for _ in range(100):
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
    print(leaks > 0, checks > 50)
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
        inside.set()
        while not done.is_set():
            await asyncio.sleep(0.001)

    async def question():
        await asyncio.sleep(0.001)
        return await sync_to_async(lambda: 42)()

    inside, done = gevent.event.Event(), gevent.event.Event()
    running = gevent.spawn(asyncio.run, background())
    inside.wait()
    try:
        print(async_to_sync(question)())
    except RuntimeError as error:
        print(error)
    done.set()
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

    async def background():
        inside.set()
        while not done.is_set():
            await asyncio.sleep(0.001)

    inside, done = gevent.event.Event(), gevent.event.Event()
    running = gevent.spawn(asyncio.run, background())
    inside.wait()
    try:
        with connection.cursor() as cursor:
            print(cursor.execute("SELECT 42").fetchone()[0])
    except SynchronousOnlyOperation as error:
        print("SynchronousOnlyOperation")
    done.set()
    running.join()
    connection.close()
"""


def test_the_orm_works_in_one_greenlet_while_a_loop_runs_in_another():
    assert run_patched(ORM) == "42"


def test_without_install_the_orm_raises_synchronous_only_operation():
    assert run_patched(ORM, install=False) == "SynchronousOnlyOperation"


def test_a_coroutine_still_may_not_use_the_orm():
    source = ORM.replace(
        "running = gevent.spawn(asyncio.run, background())\n    inside.wait()",
        "running = gevent.spawn(lambda: None)",
    ).replace(
        "with connection.cursor() as cursor:\n"
        '            print(cursor.execute("SELECT 42").fetchone()[0])',
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


def test_a_loop_runs_in_the_greenlet_that_runs_it():
    # So for "threads" of a patched process all is as in threads: their locals, their names.
    source = """
        import asyncio, threading, gevent
        mine = threading.local()

        async def main():
            await asyncio.sleep(0.001)
            return mine.name, threading.current_thread()

        def work(name):
            mine.name = name
            assert asyncio.run(main()) == (name, threading.current_thread())

        work("main")
        assert threading.current_thread() is threading.main_thread()
        gevent.joinall([gevent.spawn(work, name) for name in "ab"], raise_error=True)
        print("same")
    """
    assert run_patched(source) == "same"


def running_loop():
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def test_a_child_that_switches_to_the_loops_greenlet_does_not_end_its_turn(runner):
    # As SQLAlchemy's asyncio does: synchronous code in a bare greenlet, which awaits by switching.
    others = []

    async def scenario():
        parent = gevent.getcurrent()
        child = greenlet(lambda: [parent.switch(number) for number in range(3)], parent)
        numbers = []
        while not isinstance(number := child.switch(), list):
            numbers.append(number)
            gevent.spawn(lambda: others.append(running_loop()))
            gevent.sleep(0)
            await asyncio.sleep(0)
            assert running_loop() is runner.get_loop()
        return numbers

    assert runner.run(scenario()) == [0, 1, 2]
    assert others == [None] * 3
    assert running_loop() is None


def test_between_the_turns_of_a_loop_its_thread_is_as_others_left_it(runner):
    # Another loop may run in this thread and show itself to all, as a Jupyter kernel's does.
    foreign, turns = asyncio.SelectorEventLoop(), []

    def mine():
        return asyncio.get_running_loop(), asyncio.current_task()

    async def ours():
        before = mine()
        while len(turns) < 3:
            await asyncio.sleep(0.001)
            gevent.sleep(0)
            turns.append(mine() == before)

    async def kernel():
        before = mine()
        while len(turns) < 3:
            gevent.sleep(0.001)
        assert mine() == before == (foreign, asyncio.current_task())

    other = gevent.spawn(runner.run, ours())
    gevent.sleep(0)
    foreign.run_until_complete(kernel())
    other.get()
    foreign.close()
    assert turns == [True] * 3
    assert running_loop() is None


def test_debug_loops_that_overlap_leave_no_trace_in_the_thread():
    def run(seconds):
        with asyncio.Runner(debug=True, loop_factory=HubLoop) as runner:
            runner.run(asyncio.sleep(seconds))

    gevent.joinall([gevent.spawn(run, s) for s in (0.005, 0.01)], raise_error=True)
    assert sys.get_coroutine_origin_tracking_depth() == 0
    assert sys.get_asyncgen_hooks() == (None, None)


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


def test_a_child_that_ended_before_anybody_looked_still_tells_its_code():
    source = """
        import asyncio
        async def main():
            codes = await asyncio.gather(*(run(code) for code in range(5)))
            loud = await asyncio.create_subprocess_shell("head -c 200000 /dev/zero", stdout=-1)
            killed = await asyncio.create_subprocess_exec("cat", stdin=-1)
            killed.kill()
            return codes, len((await loud.communicate())[0]), await killed.wait()
        async def run(code):
            child = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
            await asyncio.sleep(0.05)
            return await child.wait()
        print(asyncio.run(main()))
    """
    assert run_patched(source) == "([0, 1, 2, 3, 4], 200000, -9)"


def test_a_loop_may_close_before_its_child_ends():
    source = """
        import asyncio, gevent
        async def main():
            child = await asyncio.create_subprocess_exec("cat", stdin=-1)
            return child._transport._proc
        child = asyncio.run(main())
        gevent.get_hub().handle_error = print  # an error in what gevent calls at the child's end
        child.kill()
        print(child.wait())
        gevent.sleep(0)
    """
    assert run_patched(source) == "-9"


SIGNALS = """
    import asyncio, os, signal, sys, threading
    async def main():
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        loop.call_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(came.wait(), 30)
        return loop.remove_signal_handler(signal.SIGUSR1), signal.getsignal(signal.SIGUSR1)
    print(asyncio.run(main()))

    async def interrupted():
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            print("cancelled")
            raise
    try:
        asyncio.run(interrupted())
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
"""


def test_signals_reach_their_handlers_and_ctrl_c_ends_asyncio_run():
    assert run_patched(SIGNALS) == ("(True, <Handlers.SIG_DFL: 0>)\ncancelled\nKeyboardInterrupt")


def test_what_is_no_handler_of_a_signal_is_refused(runner):
    async def coroutine():
        pass

    loop = runner.get_loop()
    with pytest.raises(TypeError):
        loop.add_signal_handler(signal.SIGUSR1, coroutine)
    with pytest.raises(ValueError, match="invalid signal number"):
        loop.add_signal_handler(9_999, print)
    with pytest.raises(RuntimeError, match="cannot be caught"):
        loop.add_signal_handler(signal.SIGKILL, print)
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="main thread"):
        pool.submit(loop.add_signal_handler, signal.SIGUSR1, print).result(30)
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


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


def test_an_error_that_nobody_awaits_goes_to_the_exception_handler(runner):
    contexts = []

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: contexts.append(context["exception"]))
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(0)

    runner.run(scenario())
    assert [type(error) for error in contexts] == [ZeroDivisionError]


def test_a_killed_greenlet_closes_what_its_loop_runs():
    ended, inside = [], gevent.event.Event()

    async def scenario():
        try:
            inside.set()
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append(running_loop() is not None)

    def run():
        with asyncio.Runner(loop_factory=HubLoop) as runner:
            runner.run(scenario())

    running = gevent.spawn(run)
    inside.wait()
    running.kill()
    assert ended == [True]
    assert isinstance(running.value, gevent.GreenletExit)


def test_a_timeout_of_gevent_ends_asyncio_run(runner):
    ended, limit = [], gevent.Timeout(0.02)

    async def scenario():
        try:
            limit.start()
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    with pytest.raises(gevent.Timeout) as raised:
        runner.run(scenario())
    assert raised.value is limit
    limit.close()
    runner.close()
    assert ended == [True]


def test_a_timeout_of_gevent_inside_a_coroutine_leaves_it_in_its_loop(runner):
    async def scenario():
        with gevent.Timeout(0.005, False):
            gevent.sleep(10)
        return asyncio.get_running_loop()

    assert runner.run(scenario()) is runner.get_loop()


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


def test_debug_mode_refuses_a_call_from_another_greenlet_that_would_wake_nobody():
    source = """
        import asyncio, gevent
        async def main():
            try:
                gevent.spawn(asyncio.get_running_loop().call_soon, print).get()
            except RuntimeError as error:
                print(error)
        asyncio.run(main(), debug=True)
    """
    assert run_patched(source).startswith("Non-thread-safe operation invoked on an event loop")


def test_a_coroutine_that_blocks_holds_up_only_its_own_loop(runner):
    ended = gevent.event.Event()

    def others():
        for _ in range(10):
            gevent.sleep(0.001)
        ended.set()

    async def scenario():
        return ended.wait(30)

    gevent.spawn(others)
    assert runner.run(scenario())


# -- lending


def task_run_inline(loop, coroutine):
    """The task of `coroutine`, after a step of it in this greenlet."""
    tasks = []

    def schedule(_):
        tasks.append(asyncio.Task(coroutine, loop=loop))

    loop.run_inline(RunningLoopContext(), schedule, None)
    return tasks[0]


@pytest.fixture
def waiting():
    """A loop that runs in a greenlet of its own and has nothing to do."""
    loop = HubLoop()
    running = gevent.spawn(loop.run_forever)
    gevent.sleep(0)
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    running.join()
    loop.close()


def test_a_greenlet_may_run_a_step_itself_and_sees_the_loop_meanwhile(waiting):
    seen = []

    async def step():
        seen.append((gevent.getcurrent(), asyncio.get_running_loop(), asyncio.current_task()))

    assert waiting.can_run_inline()
    task = task_run_inline(waiting, step())
    assert task.done()
    assert seen == [(gevent.getcurrent(), waiting, task)]
    assert running_loop() is None
    assert not {"switch", "throw", "switch_out"} & set(vars(gevent.getcurrent()))


def test_an_inline_step_that_blocks_is_alone_in_its_loop_and_unseen_by_others(waiting):
    order = []
    other_end, end = socket.socketpair()
    read = gevent.event.Event()

    async def step():
        me = asyncio.current_task()
        order.append("begun")
        gevent.sleep(0.05)
        assert asyncio.get_running_loop() is waiting
        assert asyncio.current_task() is me
        order.append("ended")

    def run_it():
        task_run_inline(waiting, step())

    def on_data():
        order.append("data")
        end.recv(10)
        read.set()

    waiting.call_soon_threadsafe(waiting.add_reader, end, on_data)
    gevent.sleep(0.01)
    greenlet = gevent.spawn(run_it)
    gevent.sleep(0)
    assert order == ["begun"]
    assert running_loop() is None
    assert not waiting.can_run_inline()
    other_end.send(b"data")
    waiting.call_soon_threadsafe(order.append, "from another greenlet")
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    greenlet.join()
    assert read.wait(10)
    assert order[:2] == ["begun", "ended"]
    assert sorted(order[2:]) == ["data", "from another greenlet"]
    assert waiting.can_run_inline()
    waiting.call_soon_threadsafe(waiting.remove_reader, end)
    gevent.sleep(0.01)
    other_end.close()
    end.close()


def test_a_timer_that_is_due_while_an_inline_step_blocks_fires_after_it(waiting):
    due, over, fired = gevent.event.Event(), gevent.event.Event(), gevent.event.Event()

    async def step():
        assert not fired.wait(0.1)
        over.set()

    def run_it():
        task_run_inline(waiting, step())

    waiting.call_soon_threadsafe(waiting.call_later, 0.05, fired.set)
    waiting.call_soon_threadsafe(due.set)
    assert due.wait(10)
    gevent.sleep(0)  # the loop waits again
    gevent.spawn(run_it)
    assert over.wait(10)
    assert fired.wait(10)


def test_what_comes_while_an_inline_step_blocks_is_read_after_it(waiting):
    other_end, end = socket.socketpair()
    watched, over, read = gevent.event.Event(), gevent.event.Event(), gevent.event.Event()

    def on_data():
        end.recv(10)
        read.set()

    async def step():
        other_end.send(b"data")
        assert not read.wait(0.05)
        over.set()

    def run_it():
        task_run_inline(waiting, step())

    waiting.call_soon_threadsafe(waiting.add_reader, end, on_data)
    waiting.call_soon_threadsafe(watched.set)
    assert watched.wait(10)
    gevent.sleep(0)  # the loop waits again
    gevent.spawn(run_it)
    assert over.wait(10)
    assert read.wait(10)
    waiting.call_soon_threadsafe(waiting.remove_reader, end)
    gevent.sleep(0.01)
    other_end.close()
    end.close()


def test_what_an_inline_step_leaves_to_do_the_loop_does(waiting):
    done = gevent.event.Event()
    greenlets = []

    async def later():
        greenlets.append(gevent.getcurrent())
        await asyncio.sleep(0.01)
        done.set()

    async def step():
        greenlets.append(gevent.getcurrent())
        later_task.append(asyncio.create_task(later()))

    later_task = []
    task_run_inline(waiting, step())
    assert len(greenlets) == 1
    assert done.wait(10)
    assert greenlets[0] is gevent.getcurrent() is not greenlets[1]


def test_a_timer_that_an_inline_step_sets_fires_in_time(waiting):
    fired = gevent.event.Event()

    async def step():
        waiting.call_later(0.01, fired.set)

    task_run_inline(waiting, step())
    assert fired.wait(10)


def test_only_the_first_callback_that_is_scheduled_is_run_inline(waiting):
    order, context = [], contextvars.copy_context()

    def schedule(_):
        for name in "abc":
            waiting.call_soon(order.append, name, context=context)

    waiting.run_inline(RunningLoopContext(), schedule, None)
    assert order == ["a"]
    gevent.sleep(0.01)
    assert order == ["a", "b", "c"]


def test_a_callback_without_a_context_is_not_run_inline(waiting):
    order = []

    def schedule(_):
        handle = waiting.call_soon(order.append, "cancelled")
        waiting.call_soon(order.append, "task_run_inline", context=contextvars.copy_context())
        handle.cancel()

    waiting.run_inline(RunningLoopContext(), schedule, None)
    assert order == ["task_run_inline"]
    gevent.sleep(0.01)
    assert order == ["task_run_inline"]


def test_a_step_for_which_nothing_is_scheduled_does_nothing(waiting):
    waiting.run_inline(RunningLoopContext(), int, 0)
    assert waiting.can_run_inline()


def test_a_step_that_cannot_be_scheduled_leaves_the_loop_as_it_was(waiting):
    with pytest.raises(ValueError, match="x"):
        waiting.run_inline(RunningLoopContext(), int, "x")
    assert waiting.can_run_inline()
    ran = gevent.event.Event()
    waiting.call_soon(ran.set, context=contextvars.copy_context())
    waiting.call_soon_threadsafe(int)
    assert ran.wait(10)


def test_a_callback_of_a_step_that_fails_is_reported_as_asyncio_does(waiting):
    reported, context = [], contextvars.copy_context()
    waiting.set_exception_handler(lambda loop, about: reported.append(about["exception"]))
    waiting.run_inline(
        RunningLoopContext(), lambda _: waiting.call_soon(int, "x", context=context), None
    )
    assert [type(error) for error in reported] == [ValueError]


def test_asynchronous_generators_of_an_inline_step_belong_to_the_loop(waiting):
    async def numbers():
        yield 1

    async def step():
        return [len(waiting._asyncgens) async for _ in numbers()]

    outside = sys.get_asyncgen_hooks()
    task = task_run_inline(waiting, step())
    assert task.result() == [1]
    assert sys.get_asyncgen_hooks() == outside
    closed = gevent.event.Event()  # the generator, which the loop does in two rounds
    waiting.call_soon_threadsafe(waiting.call_soon, waiting.call_soon, closed.set)
    assert closed.wait(10)


def test_a_greenlet_that_dies_in_an_inline_step_gives_the_loop_back(waiting):
    async def step():
        gevent.sleep(10)

    def run_it():
        waiting.run_inline(RunningLoopContext(), schedule, step())

    def schedule(coroutine):
        tasks.append(asyncio.Task(coroutine, loop=waiting))

    tasks = []
    greenlet = gevent.spawn(run_it)
    gevent.sleep(0)
    greenlet.kill()
    assert isinstance(tasks[0].exception(), gevent.GreenletExit)
    assert waiting.can_run_inline()


def test_a_loop_with_a_task_factory_is_not_lent(waiting):
    waiting.set_task_factory(lambda loop, coroutine, **more: asyncio.Task(coroutine, loop=loop))
    assert not waiting.can_run_inline()


def test_a_loop_that_is_busy_or_in_debug_mode_or_at_rest_is_not_lent(waiting):
    waiting.call_soon_threadsafe(int)
    assert not waiting.can_run_inline()
    gevent.sleep(0.01)
    assert waiting.can_run_inline()
    waiting.set_debug(True)
    assert not waiting.can_run_inline()
    at_rest = HubLoop()
    assert not at_rest.can_run_inline()
    at_rest.close()


def test_the_shared_loop_is_one_per_thread_and_can_be_closed():
    loop = shared_loop()
    assert shared_loop() is loop
    gevent.sleep(0)
    close_shared_loop()
    assert loop.is_closed()
    assert shared_loop() is not loop
    close_shared_loop()
