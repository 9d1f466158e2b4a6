"""What our programs (server, worker, `run.py`) have in common: how they are told to stop.

Neither way costs a system call while nothing happens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import gevent
from gevent import socket


def on_signals(numbers: Iterable[int], stop: Callable[[], None]) -> None:
    """Call `stop`, in a greenlet, whenever one of these signals comes."""
    for number in numbers:
        gevent.signal_handler(number, stop)


def at_end_of_input(stop: Callable[[], None], descriptor: int = 0) -> None:
    """Block this greenlet until standard input ends, then call `stop`.

    Whoever started us holds the other end of a pipe; it closes however that process dies.
    """
    while True:
        socket.wait_read(descriptor)
        if not os.read(descriptor, 4096):
            stop()
            return
