"""The short way for asynchronous Channels consumers: from event to handler without tasks.

Stock Channels makes a task for each event and each message that it waits for, waits for the first
of them, and, before each handler, sends a job to the thread of the synchronous code to close old
database connections: all that is most of what an asynchronous consumer costs. Here one coroutine
takes what is there, from the socket and from the channel in turn, and awaits the handler; the job
is sent when that "thread" may have an open connection.

The consumer is unmodified, and its handlers run as tasks of the loop do. What stays stock: a
`receive` that a middleware has wrapped, and channel layers other than gredis.

Read next: `fastpath/sync_consumers.py`, the same for synchronous consumers.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from channels.utils import await_many_dispatch as stock_dispatch

from thyme.asgi import Event
from thyme.fastpath.database import close_old_connections, used_database
from thyme.loop.bridge import Bridge
from thyme.loop.executors import ConnectionExecutor, SerialExecutor

TURN = 32
"""Events that are handled without a pause while more are there; then other tasks have theirs."""


Dispatch = Callable[[Event], Awaitable[None]]


async def await_many_dispatch(sources: Sequence[Callable[[], Any]], dispatch: Dispatch) -> None:
    """As Channels': hand what comes from `sources` to `dispatch`, one by one, until it raises."""
    receive, *channel = sources
    bridge = getattr(receive, "__self__", None)
    if not (isinstance(bridge, Bridge) and receive == bridge.receive):
        await stock_dispatch(sources, dispatch)
    elif not channel:
        await _dispatch_in_turn(bridge, _nothing, dispatch)
    elif (heard := _listenable(*channel)) is not None:
        layer, name = heard
        next_message = layer.listen(name, bridge.notify)
        try:
            await _dispatch_in_turn(bridge, next_message, dispatch)
        finally:
            layer.unlisten(name)
    else:
        await stock_dispatch(sources, dispatch)


def _listenable(channel_receive: Any) -> tuple[Any, str] | None:
    """The layer and the channel of what `AsyncConsumer` receives from, when it can be listened to.

    (Only gredis has `listen`; it tells when there is a message, so nobody has to wait for one.)
    """
    if isinstance(channel_receive, functools.partial) and len(channel_receive.args) == 1:
        layer: Any = getattr(channel_receive.func, "__self__", None)
        if hasattr(layer, "listen") and channel_receive.func == layer.receive:
            return layer, channel_receive.args[0]
    return None


async def _dispatch_in_turn(
    bridge: Bridge, next_message: Callable[[], Event | None], dispatch: Dispatch
) -> None:
    handled = 0
    while True:
        event = bridge.take()
        if event is not None:
            await dispatch(event)
        message = next_message()
        if message is not None:
            await dispatch(message)
        elif event is None:
            handled = 0
            await bridge.arrival()
        handled += 1
        if handled >= TURN:
            handled = 0
            await asyncio.sleep(0)


def _nothing() -> None:
    """A consumer without a channel layer has no messages."""


async def aclose_old_connections() -> None:
    """As Channels': close old database connections of this connection's "thread", if it has any."""
    executor = _executor()
    if executor is None or used_database(executor.greenlet):
        await sync_to_async(close_old_connections)()


def _executor() -> SerialExecutor | None:
    """Where asgiref would run thread-sensitive code of this task, when that is ours."""
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return None
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.get(context) if context else None
    return executor.current.get() if isinstance(executor, ConnectionExecutor) else None
