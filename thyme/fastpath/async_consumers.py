"""The fast path for asynchronous Channels consumers: from event to handler without tasks.

Stock Channels makes a task for each event and each message that it waits for, waits for the first
of them, and, before each handler, sends a job to the thread of the synchronous code to close old
database connections: that is most of what an asynchronous consumer costs. Here one coroutine takes
what has arrived, from the transport and from the channel in turn, and awaits the handler; the job
is only sent when that "thread" may hold an open connection.

The consumer is unmodified, and its handlers run as part of its task, as ever. Two things stay on
Channels' own path: a `receive` that a middleware has wrapped, and channel layers that do not notify
(all but gredis).

Read next: `pages.py`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from channels.utils import await_many_dispatch as stock_dispatch

from thyme.asgi import Event
from thyme.fastpath.channel_sources import (
    ChannelSource,
    ListenableLayer,
    ListenedChannel,
    NoChannel,
)
from thyme.fastpath.database import close_old_connections, used_database
from thyme.loop.bridge import Bridge
from thyme.loop.executors import ConnectionExecutor, SerialExecutor

EVENTS_PER_TURN = 32
"""Events handled without a pause while there are more; then other tasks of the loop run."""

Dispatch = Callable[[Event], Awaitable[None]]


async def await_many_dispatch(sources: Sequence[Callable[[], Any]], dispatch: Dispatch) -> None:
    """Replacement of Channels': dispatch what comes from `sources`, one by one, until one raises.

    Calls Channels' own function unless `sources` are the bridge's `receive` and a channel whose
    layer notifies.
    """
    receive, *channel_receives = sources
    bridge = Bridge.current.get(None)
    if bridge is None or receive != bridge.receive:
        await stock_dispatch(sources, dispatch)
        return
    channel = _listened_channel(*channel_receives) if channel_receives else NoChannel()
    if channel is None:
        await stock_dispatch(sources, dispatch)
        return
    channel.open(bridge.notify)
    try:
        await _dispatch_in_turn(bridge, channel.next_message, dispatch)
    finally:
        await channel.close()


def _listened_channel(channel_receive: Any) -> ChannelSource | None:
    """Return the channel that `AsyncConsumer` receives from, if its layer notifies.

    Channels passes `functools.partial(layer.receive, channel)`.
    """
    if isinstance(channel_receive, functools.partial) and len(channel_receive.args) == 1:
        receive = channel_receive.func
        if inspect.ismethod(receive) and isinstance(receive.__self__, ListenableLayer):
            layer: Any = receive.__self__
            if receive == layer.receive:
                return ListenedChannel(layer, channel_receive.args[0])
    return None


async def _dispatch_in_turn(
    bridge: Bridge, next_message: Callable[[], Event | None], dispatch: Dispatch
) -> None:
    handled = 0
    while True:
        event = bridge.receive_nowait()
        if event is not None:
            await dispatch(event)
        message = next_message()
        if message is not None:
            await dispatch(message)
        elif event is None:
            handled = 0
            await bridge.wait_for_event()
        handled += 1
        if handled >= EVENTS_PER_TURN:
            handled = 0
            await asyncio.sleep(0)


async def aclose_old_connections() -> None:
    """Replacement of Channels': close old connections of this connection's "thread", if any.

    The hop to that thread is left out when it cannot hold an open connection.
    """
    executor = _executor()
    if executor is None or used_database(executor.greenlet):
        await sync_to_async(close_old_connections)()


def _executor() -> SerialExecutor | None:
    """Return the executor of thread-sensitive code of this task, if it is one of ours."""
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return None
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.get(context) if context else None
    return executor.current.get() if isinstance(executor, ConnectionExecutor) else None
