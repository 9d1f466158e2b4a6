"""The fast path for synchronous Channels consumers: called directly in a greenlet.

Stock Channels hands every event of a synchronous consumer to a thread, and every `send` back to the
loop: some hundred microseconds each, and one thread for all consumers. Here the coroutine stops at
the consumer and leaves the connection to a plain loop: receive an event, call its handler, which
sends straight to the transport. asyncio is not involved again before the consumer ends.

    transport ──► receive ──► handler ──► send ──► transport     the connection's greenlet
    channel layer ──► handler ──► send ──► transport             the delivering greenlet

The consumer is unmodified: the same handlers, in the same order, one at a time. Two things stay on
Channels' own path: consumers that override `dispatch`, and the `send` of a middleware that wraps
it, which runs on the loop.

This module decides how events reach handlers. Routing, sessions and authentication are Channels';
which greenlet brings messages from the layer is decided in `deliveries.py`.
Read next: `deliveries.py`, then `async_consumers.py`.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import gevent
from channels.consumer import AsyncConsumer, SyncConsumer, get_handler_name
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer
from channels.sessions import InstanceSessionWrapper
from django.db import connections
from gevent.lock import BoundedSemaphore

from thyme.asgi import Event, Send
from thyme.fastpath.channel_sources import ChannelSource, NoChannel, channel_source
from thyme.fastpath.database import close_old_connections
from thyme.fastpath.deliveries import deliveries
from thyme.loop.bridge import Bridge
from thyme.loop.event_loop import patched
from thyme.loop.shared import run_on_loop, use_for_async_to_sync

THROWN_SECONDS = 60
"""Limit on the wait for an exception that another greenlet has thrown into this one. It arrives
within one round of the hub; the limit only keeps a bug from blocking for ever."""

MESSAGES_PER_DELIVERY = 16
"""Messages that one consumer handles before the others get theirs."""

AsyncSend = Callable[[Event], Awaitable[None]]


async def call(self: SyncConsumer, scope: Any, receive: Any, send: AsyncSend) -> None:
    """Replacement of `SyncConsumer.__call__`: prepare as Channels does, then run in the greenlet.

    Calls Channels' own method unless `receive` is the bridge's, which no middleware has wrapped.
    """
    bridge = Bridge.current.get(None)
    if bridge is None or receive != bridge.receive or not (patched() and _has_own_dispatch(self)):
        await AsyncConsumer.__call__(self, scope, receive, send)
        return
    self.scope = scope
    self.channel_layer = get_channel_layer(self.channel_layer_alias)
    self.base_send = direct_send(bridge, send)
    if self.channel_layer is None:
        await bridge.run_in_greenlet(SyncConsumerRunner(self, bridge, NoChannel()).run)
        return
    self.channel_name = await self.channel_layer.new_channel()
    self.channel_receive = functools.partial(self.channel_layer.receive, self.channel_name)
    channel = channel_source(self.channel_layer, self.channel_name, bridge.loop)
    runner = SyncConsumerRunner(self, bridge, channel)
    channel.open(runner.on_message)
    try:
        await bridge.run_in_greenlet(runner.run)
    finally:
        await channel.close()


def _has_own_dispatch(consumer: SyncConsumer) -> bool:
    """Return whether `dispatch` is Channels' own."""
    # Looked up without its descriptor, which creates an object at each access.
    found = inspect.getattr_static(type(consumer), "dispatch")
    return found is vars(SyncConsumer)["dispatch"]


def direct_send(bridge: Bridge, send: AsyncSend) -> Send:
    """Return a function that does what the coroutine function `send` does, blocking its greenlet.

    Channels' session middleware wraps `send`, and does nothing to WebSocket events. Any other
    wrapper may do anything, so it runs on the loop.
    """
    if send == bridge.send:
        return bridge.transport.send
    if inspect.ismethod(send) and bridge.scope["type"] == "websocket":
        wrapper: Any = send.__self__
        if type(wrapper) is InstanceSessionWrapper:
            return direct_send(bridge, wrapper.real_send)
    return lambda event: run_on_loop(bridge.loop, send(event))  # type: ignore[arg-type]


class SyncConsumerRunner:
    """Hand the events of one consumer, from its transport and its channel, to its handlers.

    Two greenlets call handlers: the connection's, with events, and the delivering one, with
    messages. A lock keeps them apart. While the connection's greenlet is busy, messages are left to
    it (`_messages_left`): it handles them after the event it is at.
    """

    __slots__ = (
        "_delivery_due",
        "_ended",
        "_error",
        "_error_thrown",
        "_greenlet",
        "_lock",
        "_messages_left",
        "_receiving",
        "bridge",
        "channel",
        "consumer",
        "context",
        "deliveries",
    )

    def __init__(self, consumer: SyncConsumer, bridge: Bridge, channel: ChannelSource) -> None:
        self.consumer = consumer
        self.bridge = bridge
        self.channel = channel
        self.context = contextvars.copy_context()
        self.deliveries = deliveries()
        self._lock = BoundedSemaphore(1)
        self._greenlet: gevent.Greenlet | None = None
        self._receiving = False
        self._delivery_due = False
        self._messages_left = False
        self._ended = False
        self._error: Exception | None = None
        self._error_thrown = False

    def run(self) -> None:
        """Hand events from the transport to the consumer until it stops."""
        self._greenlet = gevent.getcurrent()
        use_for_async_to_sync(self.bridge.loop)
        receive, dispatch = self.bridge.next_event, self._dispatch
        try:
            while True:
                self._receiving = True
                event = receive()
                self._receiving = False
                dispatch(event)
                if self._messages_left:
                    self._messages_left = False
                    self._handle_messages()
        except StopConsumer:
            pass
        finally:
            self._ended = True
            connections.close_all()  # those of this greenlet, which ends

    def _dispatch(self, message: Event) -> None:
        """As `SyncConsumer.dispatch`, which closes old database connections around handlers."""
        with self._lock:
            if self._ended:
                self._raise_end()
            handler = getattr(self.consumer, get_handler_name(message), None)
            try:
                if handler is None:
                    raise ValueError(f"No handler for message type {message['type']}")
                close_old_connections()
                try:
                    self.context.run(handler, message)
                finally:
                    close_old_connections()
            except BaseException:
                self._ended = True  # before the other greenlet gets the lock
                raise

    def _raise_end(self) -> None:
        """Raise what has ended the consumer in the other greenlet."""
        if self._error_thrown:
            gevent.sleep(THROWN_SECONDS)  # until the error that was thrown arrives here
        if self._error is not None:
            raise self._error
        raise StopConsumer

    def on_message(self) -> None:
        """Have the messages in the channel delivered soon. Never blocks."""
        if not self._delivery_due and not self._ended:
            self._delivery_due = True
            self.deliveries.add(self._deliver)

    def _deliver(self) -> None:
        if not self._receiving:  # the connection's greenlet is busy, and handles messages next
            self._messages_left = True
            return
        try:
            first, second = self.channel.next_message(), self.channel.next_message()
            if first is None:
                self._delivery_due = False
            elif second is None:
                self._handle_messages(first)
            else:
                self._handle_coalesced(first, second)
        except Exception as error:  # StopConsumer, too, ends the consumer
            self._error = error
            if self._receiving:
                self._error_thrown = True
                gevent.kill(self._greenlet, error)

    def _handle_messages(self, *messages: Event) -> None:
        """Handle these messages and those that follow, up to `MESSAGES_PER_DELIVERY`."""
        for message in messages:
            self._dispatch(message)
        for _ in range(MESSAGES_PER_DELIVERY):
            if self._ended or (following := self.channel.next_message()) is None:
                self._delivery_due = False
                return
            self._dispatch(following)
        self.deliveries.add(self._deliver)  # there may be more

    def _handle_coalesced(self, *messages: Event) -> None:
        """As `_handle_messages`; what the handlers send is written together (`coalesce`)."""
        transport = self.bridge.transport
        transport.coalesce = True
        try:
            self._handle_messages(*messages)
        finally:
            transport.coalesce = False
