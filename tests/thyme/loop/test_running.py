"""The running loop is visible in one greenlet only, while it runs there."""

import asyncio
from asyncio import events

import gevent
import pytest

from thyme.loop.running import RunningLoopContext


def running() -> object:
    return events._get_running_loop()


@pytest.fixture
def loop():
    loop = asyncio.SelectorEventLoop()
    yield loop
    loop.close()


def test_other_greenlets_see_no_loop_while_this_one_is_switched_out(loop):
    seen = []
    with RunningLoopContext():
        events._set_running_loop(loop)
        gevent.spawn(lambda: seen.append(running()))
        gevent.sleep(0)
        assert running() is loop
    assert seen == [None]
    assert running() is None


def test_a_loop_that_was_there_before_is_there_for_the_others_and_afterwards(loop):
    outer, seen = asyncio.SelectorEventLoop(), []
    events._set_running_loop(outer)
    try:
        with RunningLoopContext():
            events._set_running_loop(loop)
            gevent.spawn(lambda: seen.append(running()))
            gevent.sleep(0)
            assert running() is loop
        assert (seen, running()) == ([outer], outer)
    finally:
        events._set_running_loop(None)
        outer.close()


def test_two_greenlets_with_loops_of_their_own_see_each_its_own(loop):
    other, seen = asyncio.SelectorEventLoop(), []

    def run(mine):
        with RunningLoopContext():
            events._set_running_loop(mine)
            for _ in range(3):
                gevent.sleep(0)
                seen.append(running() is mine)

    gevent.joinall([gevent.spawn(run, loop), gevent.spawn(run, other)], raise_error=True)
    other.close()
    assert seen == [True] * 6


def test_a_kill_within_the_context_is_noted_although_it_is_caught(loop):
    contexts = []

    def stubborn():
        with RunningLoopContext() as _:
            pass
        context = RunningLoopContext()
        contexts.append(context)
        with context:
            try:
                gevent.sleep(60)
            except gevent.GreenletExit:
                pass  # as a task of asyncio would

    greenlet = gevent.spawn(stubborn)
    gevent.sleep(0)
    greenlet.kill()
    assert contexts[0].killed


def test_another_exception_that_is_thrown_in_is_no_kill():
    contexts = []

    def waiting():
        context = RunningLoopContext()
        contexts.append(context)
        with context, pytest.raises(ValueError, match="thrown"):
            gevent.sleep(60)

    greenlet = gevent.spawn(waiting)
    gevent.sleep(0)
    gevent.kill(greenlet, ValueError("thrown"))
    greenlet.get()
    assert not contexts[0].killed
