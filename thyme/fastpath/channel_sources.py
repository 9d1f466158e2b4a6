"""Where a consumer's channel messages come from: a layer that notifies, or any other layer.

gredis' layer has `listen(channel, notify)`: it calls `notify` when a message arrives and returns a
function that takes the next one. Any other layer can only be awaited, so a task receives from it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from thyme.asgi import Event
from thyme.loop.event_loop import HubLoop

NextMessage = Callable[[], Event | None]


@runtime_checkable
class ListenableLayer(Protocol):
    """A channel layer that notifies of messages, so that nothing has to wait for them."""

    def listen(self, channel: str, notify: Callable[[], None]) -> NextMessage:
        """Call `notify` whenever a message arrives; return a function that takes the next one."""

    def unlisten(self, channel: str) -> None:
        """Stop notifying."""


class ChannelSource(Protocol):
    """Where the messages of one channel come from."""

    def open(self, notify: Callable[[], None]) -> None:
        """Call `notify`, which must not block, whenever there may be a message."""

    @property
    def next_message(self) -> NextMessage:
        """The function that takes the next message; it returns None if there is none."""

    async def close(self) -> None:
        """Stop receiving."""


class NoChannel:
    """The messages of a consumer without a channel layer: none."""

    __slots__ = ()

    def open(self, notify: Callable[[], None]) -> None:
        """No-op."""

    def next_message(self) -> Event | None:
        """Return None."""
        return None

    async def close(self) -> None:
        """No-op."""


class ListenedChannel:
    """The messages of a channel whose layer notifies."""

    __slots__ = ("_channel", "_layer", "next_message")

    def __init__(self, layer: ListenableLayer, channel: str) -> None:
        self._layer = layer
        self._channel = channel
        self.next_message: NextMessage

    def open(self, notify: Callable[[], None]) -> None:
        """Start to listen."""
        self.next_message = self._layer.listen(self._channel, notify)

    async def close(self) -> None:
        """Stop listening."""
        self._layer.unlisten(self._channel)


class ReceivedChannel:
    """The messages of a channel that a task receives from, one at a time."""

    __slots__ = ("_channel", "_layer", "_loop", "_messages", "_task")

    def __init__(self, layer: Any, channel: str, loop: HubLoop) -> None:
        self._layer = layer
        self._channel = channel
        self._loop = loop
        self._messages: deque[tuple[Event, asyncio.Event]] = deque()

    def open(self, notify: Callable[[], None]) -> None:
        """Start the task, on the running loop."""
        self._task = asyncio.create_task(self._receive(notify))

    async def _receive(self, notify: Callable[[], None]) -> None:
        while True:
            message, consumed = await self._layer.receive(self._channel), asyncio.Event()
            self._messages.append((message, consumed))
            notify()
            await consumed.wait()

    def next_message(self) -> Event | None:
        """Return the message that the task has received, and let it receive the next."""
        if not self._messages:
            return None
        message, consumed = self._messages.popleft()
        self._loop.call_soon_threadsafe(consumed.set)
        return message

    async def close(self) -> None:
        """Cancel the task."""
        self._task.cancel()
        await asyncio.wait([self._task])


def channel_source(layer: Any, channel: str, loop: HubLoop) -> ChannelSource:
    """Return the source for `channel` of `layer`, whichever kind of layer it is."""
    if isinstance(layer, ListenableLayer):
        return ListenedChannel(layer, channel)
    return ReceivedChannel(layer, channel, loop)
