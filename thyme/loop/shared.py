"""The loop that all adapted applications of a native thread share, and how greenlets use it.

Read next: `bridge.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from typing import Any

import gevent
from asgiref.sync import SyncToAsync
from gevent import monkey
from gevent.event import AsyncResult

from thyme.loop.event_loop import HubLoop

_of_this_thread = monkey.get_original("_thread", "_local")()


def shared_loop() -> HubLoop:
    """Return this native thread's shared loop; start it, in a greenlet of its own, if need be."""
    loop: HubLoop | None = getattr(_of_this_thread, "loop", None)
    if loop is None or loop.is_closed():
        loop = _of_this_thread.loop = HubLoop()
        _of_this_thread.greenlet = gevent.spawn(loop.run_forever)
    return loop


def close_shared_loop() -> None:
    """Cancel all tasks of this thread's shared loop, and close it. No-op if there is none."""
    loop: HubLoop | None = getattr(_of_this_thread, "loop", None)
    if loop is None or loop.is_closed():
        return
    _of_this_thread.loop = None
    loop.call_soon_threadsafe(loop.stop)
    _of_this_thread.greenlet.join()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(_cancel_all())
    loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run_on_loop(loop: HubLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run `coroutine` as a task of `loop` and return its result; blocks the calling greenlet only.

    Raises what the coroutine raises, and `asyncio.CancelledError` when its task is cancelled.
    """
    result: AsyncResult = AsyncResult()

    def settle(task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            result.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            result.set_exception(error)
        else:
            result.set(task.result())

    loop.call_soon_threadsafe(lambda: loop.create_task(coroutine).add_done_callback(settle))
    return result.get()


def use_for_async_to_sync(loop: HubLoop) -> None:
    """Let `async_to_sync`, called in this greenlet from now on, run its coroutines on `loop`.

    asgiref remembers a loop for each thread that its `sync_to_async` uses, and a greenlet of ours
    counts as such a thread. Without this, each call would create and close a loop.
    """
    SyncToAsync.threadlocal.main_event_loop = loop
    SyncToAsync.threadlocal.main_event_loop_pid = os.getpid()
