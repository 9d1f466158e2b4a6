"""asyncio's "running loop", seen by one greenlet only."""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from typing import Any

import gevent
from gevent import getcurrent

State = tuple[asyncio.AbstractEventLoop | None, asyncio.Task[Any] | None, tuple[Any, ...], int]
"""All that asyncio keeps per native thread: the running loop, its current task (from 3.14 on; it
was kept per loop before), the hooks of asynchronous generators, and in debug mode how much of its
origin a coroutine remembers."""


if sys.version_info >= (3, 14):
    _swap_task = asyncio.tasks._swap_current_task


_swap_task: Any = None


def _take() -> State:
    """The thread's state; its current task is taken away, else no other loop could set one."""
    loop = events._get_running_loop()
    task = _swap_task(loop, None) if _swap_task and loop else None
    return loop, task, sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth()


def _put(state: State) -> None:
    loop, task, hooks, depth = state
    events._set_running_loop(loop)
    if task is not None:
        _swap_task(loop, task)
    sys.set_asyncgen_hooks(*hooks)
    sys.set_coroutine_origin_tracking_depth(depth)


class Turns:
    """The turns of one greenlet, while a loop runs in it: only they see the state of that loop.

    gevent looks up a greenlet's `switch_out` each time it yields to the hub, and its `switch` or
    `throw` to let it go on. Here the one greenlet gets its own. Others find the thread as they
    left it: usually without a running loop; in a Jupyter kernel, say, with the kernel's.

    Not seen is a bare `greenlet.greenlet` that a coroutine starts and that itself waits in the
    hub. (SQLAlchemy's asyncio extension starts such greenlets, but they only ever await.)
    """

    __slots__ = ("greenlet", "inside", "killed", "outside")

    outside: State  # while it runs

    def __init__(self) -> None:
        self.greenlet: Any = getcurrent()
        self.inside: State | None = None  # kept here between two turns
        self.killed = False  # while the loop ran: its tasks swallow what is thrown into them

    def __enter__(self) -> None:
        self.outside = _take()
        attributes = self.greenlet.__dict__
        attributes["switch"], attributes["throw"] = self._switch, self._throw
        attributes["switch_out"] = self._end

    def __exit__(self, *error: object) -> None:
        attributes = self.greenlet.__dict__
        del attributes["switch"], attributes["throw"], attributes["switch_out"]
        _put(self.outside)

    def _switch(self, *args: Any) -> Any:
        self._begin()
        return type(self.greenlet).switch(self.greenlet, *args)

    def _throw(self, *args: Any) -> Any:
        self.killed |= _is_kill(*args)
        self._begin()
        return type(self.greenlet).throw(self.greenlet, *args)

    def _begin(self) -> None:
        if self.inside is not None:  # else a child of this greenlet returns to it, within its turn
            self.outside = _take()
            _put(self.inside)
            self.inside = None

    def _end(self) -> None:
        self.inside = _take()
        _put(self.outside)


def _is_kill(error: Any = gevent.GreenletExit, *more: Any) -> bool:
    return isinstance(error, gevent.GreenletExit) or error is gevent.GreenletExit
