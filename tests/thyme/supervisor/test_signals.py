"""Stop requests: signals, and the end of a pipe."""

import os
import signal

import gevent
from gevent.event import Event

from thyme.supervisor.signals import on_eof, on_signals

LIMIT = 30  # seconds for what takes no time


def test_each_signal_calls_back_in_a_greenlet():
    called = []
    arrived = Event()

    def callback() -> None:
        called.append(gevent.getcurrent())
        arrived.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        on_signals(before, callback)
        for number in before:
            arrived.clear()
            os.kill(os.getpid(), number)
            assert arrived.wait(LIMIT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert len(called) == 2
    assert gevent.get_hub() not in called


def test_the_end_of_input_calls_back_and_what_comes_before_is_ignored():
    reader, writer = os.pipe()
    ended = Event()
    waiting = on_eof(ended.set, reader)
    try:
        os.write(writer, b"ignored")
        assert not ended.wait(0.1)
        os.close(writer)
        assert ended.wait(LIMIT)
        waiting.join(LIMIT)
    finally:
        os.close(reader)
