"""asyncio's "running loop", visible to one greenlet only.

asyncio keeps the running loop per native thread, and all greenlets of a thread share it. So while a
loop runs in one greenlet, `asyncio.get_running_loop()` succeeds in every other greenlet as well:
Django's ORM raises `SynchronousOnlyOperation` there, and `async_to_sync` refuses to run.

gevent calls a greenlet's `switch_out` when it yields to the hub, and its `switch` or `throw` to
resume it. `RunningLoopContext` gives one greenlet its own versions of these three, which save the
thread's asyncio state at the first point and restore it at the second. Other greenlets pay nothing.

    greenlet of the loop   ──run──┐ switch_out: save ours, restore theirs
    hub, other greenlets          └──run──┐
    greenlet of the loop                  └ switch: save theirs, restore ours ──run──►

Taught in notebooks/06_asyncio_on_the_hub.ipynb. Read next: `event_loop.py`.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from typing import Any

import gevent
from gevent import getcurrent

ThreadState = tuple[
    asyncio.AbstractEventLoop | None, asyncio.Task[Any] | None, tuple[Any, ...], int
]
"""All that asyncio keeps per native thread: the running loop, its current task (from Python 3.14
on; before, it was kept per loop), the hooks of asynchronous generators, and, in debug mode, how
many frames of its origin a coroutine remembers."""

_swap_task: Any = None
if sys.version_info >= (3, 14):
    _swap_task = asyncio.tasks._swap_current_task


def _save() -> ThreadState:
    """Return the thread's state; remove its current task, or no other loop could set one."""
    loop = events._get_running_loop()
    task = _swap_task(loop, None) if _swap_task and loop else None
    return loop, task, sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth()


def _restore(state: ThreadState) -> None:
    loop, task, hooks, depth = state
    events._set_running_loop(loop)
    if task is not None:
        _swap_task(loop, task)
    sys.set_asyncgen_hooks(*hooks)
    sys.set_coroutine_origin_tracking_depth(depth)


class RunningLoopContext:
    """Confine the loop that runs within this context to the greenlet that made it.

    Other greenlets find the thread as it was before: usually without a running loop; in a Jupyter
    kernel, with the kernel's.

    `killed`: whether the greenlet was killed within the context. asyncio's tasks catch exceptions
    that are thrown into them, a kill included, so the greenlet has to look here.

    Limitation: a bare `greenlet.greenlet` that a coroutine starts, and that itself waits in the
    hub, is not seen. (SQLAlchemy's asyncio extension starts such greenlets, but they only await.)
    """

    __slots__ = ("greenlet", "killed", "outer", "saved")

    outer: ThreadState  # the thread's state outside, while the greenlet runs

    def __init__(self) -> None:
        self.greenlet: Any = getcurrent()
        self.saved: ThreadState | None = None  # ours, while the greenlet is switched out
        self.killed = False

    def __enter__(self) -> None:
        self.outer = _save()
        attributes = self.greenlet.__dict__
        attributes["switch"], attributes["throw"] = self._switch, self._throw
        attributes["switch_out"] = self._switched_out

    def __exit__(self, *error: object) -> None:
        attributes = self.greenlet.__dict__
        del attributes["switch"], attributes["throw"], attributes["switch_out"]
        _restore(self.outer)

    def _switch(self, *args: Any) -> Any:
        self._switching_in()
        return type(self.greenlet).switch(self.greenlet, *args)

    def _throw(self, *args: Any) -> Any:
        self.killed |= _is_kill(*args)
        self._switching_in()
        return type(self.greenlet).throw(self.greenlet, *args)

    def _switching_in(self) -> None:
        if self.saved is not None:  # else a child greenlet returns to this one, which never yielded
            self.outer = _save()
            _restore(self.saved)
            self.saved = None

    def _switched_out(self) -> None:
        self.saved = _save()
        _restore(self.outer)


def _is_kill(error: Any = gevent.GreenletExit, *more: Any) -> bool:
    return isinstance(error, gevent.GreenletExit) or error is gevent.GreenletExit
