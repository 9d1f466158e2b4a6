"""The short way for synchronous Channels consumers: run directly in their connection's greenlet.

Stock Channels hands every event of a synchronous consumer to a thread and every `send` back to the
loop: some hundred microseconds each, and one thread for all. Here the coroutine stops at the
consumer and leaves the connection to a plain loop: receive an event, call its handler, which sends
straight to the socket. No asyncio is involved until the consumer ends.

    socket ──► receive ──► handler ──► send ──► socket      the connection's greenlet
    channel layer ──► handler ──► send ──► socket           one that goes from consumer to consumer

The consumer is unmodified: same handlers, same order, one at a time. What stays stock:
consumers that override `dispatch`, and `send` through a middleware that wraps it (that
runs on the loop, as it must).

This file decides how events reach handlers. It leaves the way to the consumer (routing, sessions,
authentication) to Channels, asynchronous consumers to `fastpath/async_consumers.py`, which greenlet
brings messages to `fastpath/deliveries.py`, and pages to `fastpath/pages.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections import deque
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
from thyme.fastpath.database import close_old_connections
from thyme.fastpath.deliveries import deliveries
from thyme.loop.bridge import Bridge
from thyme.loop.event_loop import patched
from thyme.loop.shared import belong_to, on_loop
from thyme.server.websocket_cycle import Conversation

THROWN_SECONDS = 60
"""At most so long for an exception to arrive that has been thrown; it takes one turn of the hub."""

AT_ONCE = 16
"""Messages that one consumer is handed before the others have their turn."""

AsyncSend = Callable[[Event], Awaitable[None]]


async def call(self: SyncConsumer, scope: Any, receive: Any, send: AsyncSend) -> None:
    """`SyncConsumer.__call__`: what `AsyncConsumer.__call__` prepares, then the conversation."""
    bridge = getattr(receive, "__self__", None)
    if not (isinstance(bridge, Bridge) and patched() and _dispatches_as_channels(self)):
        await AsyncConsumer.__call__(self, scope, receive, send)
        return
    self.scope = scope
    self.channel_layer = get_channel_layer(self.channel_layer_alias)
    self.base_send = direct_send(bridge, send)
    conversation = _Conversation(self, bridge)
    if self.channel_layer is None:
        await bridge.converse(conversation.run)
        return
    self.channel_name = await self.channel_layer.new_channel()
    self.channel_receive = functools.partial(self.channel_layer.receive, self.channel_name)
    stop = _listen(self.channel_layer, self.channel_name, conversation)
    try:
        await bridge.converse(conversation.run)
    finally:
        await stop()


def _dispatches_as_channels(consumer: SyncConsumer) -> bool:
    # Looked up without its descriptor, which makes a new object at each access.
    found = inspect.getattr_static(type(consumer), "dispatch")
    return found is vars(SyncConsumer)["dispatch"]


def direct_send(bridge: Bridge, send: AsyncSend) -> Send:
    """What the coroutine function `send` does, as a function that blocks this greenlet.

    Channels' session middleware wraps `send` and does nothing to WebSocket events; anybody else's
    wrapper may do anything, so it is run where it belongs, on the loop.
    """
    if send == bridge.send:
        return bridge.blocking_send
    wrapper: Any = getattr(send, "__self__", None)
    if type(wrapper) is InstanceSessionWrapper and bridge.scope["type"] == "websocket":
        return direct_send(bridge, wrapper.real_send)
    return lambda event: on_loop(bridge.loop, send(event))  # type: ignore[arg-type]


class _Conversation:
    """The events of one consumer, from its socket and from its channel, one at a time."""

    def __init__(self, consumer: SyncConsumer, bridge: Bridge) -> None:
        self.consumer = consumer
        self.bridge = bridge
        self.context = contextvars.copy_context()
        self.turn = BoundedSemaphore(1)
        self.over = False
        self.error: Exception | None = None
        self.receiving = self.thrown = False
        self.greenlet: gevent.Greenlet | None = None
        self.deliveries = deliveries()
        self.due = self.left = False
        self.next_message: Callable[[], Event | None] = lambda: None

    def run(self) -> None:
        """Hand events from the socket to the consumer until it has had enough."""
        self.greenlet = gevent.getcurrent()
        belong_to(self.bridge.loop)
        receive, hand_over = self.bridge.next_event, self._dispatch
        try:
            while True:
                self.receiving = True
                event = receive()
                self.receiving = False
                hand_over(event)
                if self.left:
                    self.left = False
                    self._hand_over_messages()
        except StopConsumer:
            pass
        finally:
            self.over = True
            connections.close_all()  # those of this greenlet, which ends

    def _dispatch(self, message: Event) -> None:
        """As `SyncConsumer.dispatch`, with the care for the database that Channels takes."""
        with self.turn:
            if self.over:
                self._end()
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
                self.over = True  # before the other greenlet has its turn
                raise

    def _end(self) -> None:
        """The other greenlet's handler has ended the consumer."""
        if self.thrown:
            gevent.sleep(THROWN_SECONDS)  # its error is on its way to this greenlet: be hit here
        if self.error is not None:
            raise self.error
        raise StopConsumer

    def message_came(self) -> None:
        """There is a message in the channel; must not block."""
        if not self.due and not self.over:
            self.due = True
            self.deliveries.add(self._hand_over)

    def _hand_over(self) -> None:
        if not self.receiving:  # its own greenlet is at work, and goes on with the messages
            self.left = True
            return
        try:
            first, second = self.next_message(), self.next_message()
            if first is None:
                self.due = False
            elif second is None:
                self._hand_over_messages(first)
            else:
                self._hand_over_together(first, second)
        except Exception as error:  # StopConsumer, too: it ends the consumer
            self.error = error
            if self.receiving:
                self.thrown = True
                gevent.kill(self.greenlet, error)

    def _hand_over_messages(self, *taken: Event) -> None:
        """Hand over these, and those that wait, up to `AT_ONCE`."""
        for message in taken:
            self._dispatch(message)
        for _ in range(AT_ONCE):
            if self.over or (following := self.next_message()) is None:
                self.due = False
                return
            self._dispatch(following)
        self.deliveries.add(self._hand_over)  # there may be more

    def _hand_over_together(self, *taken: Event) -> None:
        """The same; what the handlers send goes out in one piece, unless one of them waits."""
        server = getattr(self.bridge.blocking_send, "__self__", None)
        if not isinstance(server, Conversation):
            self._hand_over_messages(*taken)
            return
        server.gathers = True
        try:
            self._hand_over_messages(*taken)
        finally:
            server.gathers = False


def _listen(layer: Any, channel: str, conversation: _Conversation) -> Callable[[], Awaitable[None]]:
    """Have the conversation told of messages in `channel`; what is returned ends that.

    gredis tells directly (`listen`); any other layer is received from by a task, one at a time.
    """
    if hasattr(layer, "listen"):
        conversation.next_message = layer.listen(channel, conversation.message_came)

        async def unlisten() -> None:
            layer.unlisten(channel)

        return unlisten
    messages: deque[tuple[Event, asyncio.Event]] = deque()

    def next_message() -> Event | None:
        if not messages:
            return None
        message, taken = messages.popleft()
        conversation.bridge.loop.call_soon_threadsafe(taken.set)
        return message

    async def receive() -> None:
        while True:
            message, taken = await layer.receive(channel), asyncio.Event()
            messages.append((message, taken))
            conversation.message_came()
            await taken.wait()

    conversation.next_message = next_message
    task = asyncio.create_task(receive())

    async def cancel() -> None:
        task.cancel()
        await asyncio.wait([task])

    return cancel
