"""The loop that all adapted applications of a native thread share."""

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


def shared_loop() -> HubLoop:
    """The loop that all adapted applications of this native thread share; runs from now on."""
    loop: HubLoop | None = getattr(_of_this_thread, "loop", None)
    if loop is None or loop.is_closed():
        loop = _of_this_thread.loop = HubLoop()
        _of_this_thread.greenlet = gevent.spawn(loop.run_forever)
    return loop


def close_shared_loop() -> None:
    """Stop and close the shared loop of this thread, if there is one; its tasks are cancelled."""
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


_of_this_thread = monkey.get_original("_thread", "_local")()


def on_loop(loop: HubLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What `coroutine` returns, run as a task of `loop`; blocks the calling greenlet only."""
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


def belong_to(loop: HubLoop) -> None:
    """Let `async_to_sync`, called in this greenlet from now on, run its coroutines on `loop`.

    asgiref remembers the loop for the threads that its `sync_to_async` uses; a greenlet of ours is
    such a "thread". Without this each call would make a loop of its own.
    """
    SyncToAsync.threadlocal.main_event_loop = loop
    SyncToAsync.threadlocal.main_event_loop_pid = os.getpid()
