"""Stop requests to a program (server, worker, `run.py`): signals, and the end of standard input.

Neither makes a system call while nothing happens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import gevent
from gevent import socket


def on_signals(numbers: Iterable[int], callback: Callable[[], None]) -> None:
    """Call `callback`, in a greenlet, for each signal in `numbers` that arrives."""
    for number in numbers:
        gevent.signal_handler(number, callback)


def on_eof(callback: Callable[[], None], descriptor: int = 0) -> gevent.Greenlet:
    """Call `callback` when `descriptor` (default: standard input) ends; return the greenlet.

    The process that started us holds the other end of a pipe, which the kernel closes however that
    process exits.
    """
    return gevent.spawn(_wait_for_eof, callback, descriptor)


def _wait_for_eof(callback: Callable[[], None], descriptor: int) -> None:
    while True:
        socket.wait_read(descriptor)
        if not os.read(descriptor, 4096):
            callback()
            return
