"""The channel layer: Channels' contract on the crossbar.

    CHANNEL_LAYERS = {"default": {"BACKEND": "gredis.GredisChannelLayer", "CONFIG": {"url": …}}}

A channel name with "!" is an address and is sent to by unicast, any other is a queue and is sent to
by anycast; a group is a group. What the contract says of each method is in Channels' specification:
https://channels.readthedocs.io/en/latest/channel_layer_spec.html

This file decides what a channel is: a bounded buffer of messages and those who wait for one. It
leaves routing to `crossbar.py` and waiting to the driver.

Read next: `thyme/relay.py`, the other user of the crossbar.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer
from gevent.event import AsyncResult

from gredis.drivers.gevent import GeventCrossbar, connect
from gredis.errors import GredisError
from gredis.messages import unpack
from gredis.names import SEPARATOR, Address

Message = dict[str, Any]

RECEIVE_ROOM = 100
"""Messages of a shared channel that one process may hold before they wait in Redis instead."""


class Channel:
    """Messages that have come for one channel, and the calls of `receive` that wait for one."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.bodies: deque[bytes] = deque()
        self.waiting: deque[asyncio.Future[bytes]] = deque()
        self.notify: Callable[[], None] | None = None

    def put(self, body: bytes) -> None:
        """Take a message; dropped when the buffer is full (delivery is at most once)."""
        if len(self.bodies) >= self.capacity:
            return
        self.bodies.append(body)
        if self.notify is not None:
            self.notify()
        elif self.waiting:
            loop = self.waiting[0].get_loop()
            loop.call_soon_threadsafe(self._serve)

    def _serve(self) -> None:
        while self.waiting and self.bodies:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(self.bodies.popleft())

    async def get(self) -> bytes:
        """The next message; a cancelled call takes none."""
        if self.bodies and not self.waiting:
            return self.bodies.popleft()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.bodies.appendleft(future.result())
            elif future in self.waiting:
                self.waiting.remove(future)
            raise


class GredisChannelLayer(BaseChannelLayer):
    """Channels' channel layer on the crossbar of this process.

    `url`: where Redis is; `prefix`: of all keys; `capacity`: messages of one channel that nobody
    has received yet (`channel_capacity`: the same by pattern); `expiry` and `group_expiry` are
    accepted for compatibility: memberships end with their process, not with time.
    """

    extensions = ("groups", "flush")

    def __init__(
        self,
        url: str = "redis://localhost:6379",
        prefix: str = "gredis",
        *,
        capacity: int = 100,
        expiry: int = 60,
        group_expiry: int = 86400,
        channel_capacity: dict[Any, int] | None = None,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self.url = url
        self.prefix = prefix
        self.channels: dict[str, Channel] = {}

    @property
    def crossbar(self) -> GeventCrossbar:
        """The crossbar of this process, connected when first used."""
        return connect(self.url, self.prefix)

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to a channel; raises `ChannelFull`, and `TypeError` for a bad name."""
        self.require_valid_channel_name(channel)
        _require_message(message)
        if SEPARATOR in channel:
            await self._send_to_address(channel, message)
            return
        waiting = self.get_capacity(channel)
        if await _reply(lambda: self.crossbar.anycast_soon(channel, message, waiting)) == b"FULL":
            raise ChannelFull(f"channel {channel!r} holds {waiting} messages")

    async def _send_to_address(self, channel: str, message: Message) -> None:
        address = Address.parse(channel)
        here = self.channels.get(channel)
        if here is not None and len(here.bodies) >= here.capacity:
            raise ChannelFull(f"channel {channel!r} holds {here.capacity} messages")
        reply = await _reply(lambda: self.crossbar.unicast_soon(address, message))
        if reply == b"FULL":
            raise ChannelFull(f"the inbox of {channel!r} is full")

    async def receive(self, channel: str) -> Message:
        """The next message of a channel; waits for it."""
        self.require_valid_channel_name(channel)
        found = self.channels.get(channel)
        if found is None:
            found = self._open(channel)
            if SEPARATOR not in channel:
                await _reply(lambda: self.crossbar.take(channel, found.put, RECEIVE_ROOM))
        try:
            body = await found.get()
        except asyncio.CancelledError:
            # A consumer that ends cancels its receive: with this its channel has ended, too.
            if SEPARATOR in channel and not found.bodies and not found.waiting:
                self._close(channel)
            raise
        if SEPARATOR not in channel:
            self.crossbar.give_back(channel)
        message: Message = unpack(body)
        return message

    def listen(self, channel: str, notify: Callable[[], None]) -> Callable[[], Message | None]:
        """Receive without coroutines: `notify` is called, and must not block, when messages come.

        What is returned gives the next message, or None when there is none at the moment. An
        extension of ours, for a channel of this process that nobody calls `receive` for.
        """
        found = self.channels[channel]
        found.notify = notify

        def next_message() -> Message | None:
            return unpack(found.bodies.popleft()) if found.bodies else None

        return next_message

    def unlisten(self, channel: str) -> None:
        """The channel has ended."""
        self._close(channel)

    async def new_channel(self, prefix: str = "specific") -> str:
        """The name of a new channel that only this process receives from."""
        self.crossbar.open()
        channel = f"{prefix}.{self.crossbar.core.add(_nobody)}"
        self._open(channel)
        return channel

    def _open(self, channel: str) -> Channel:
        opened = self.channels[channel] = Channel(self.get_capacity(channel))
        if SEPARATOR in channel:
            self.crossbar.core.add(opened.put, Address.parse(channel).local)
        return opened

    def _close(self, channel: str) -> None:
        self.channels.pop(channel, None)
        self.crossbar.remove(Address.parse(channel).local)

    # -- groups

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel of this process a member of a group."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        address = self._here(channel)
        await _reply(lambda: self.crossbar.join(group, address.local))

    async def group_discard(self, group: str, channel: str) -> None:
        """End a membership; no error when there is none."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        address = self._here(channel)
        await _reply(lambda: self.crossbar.leave(group, address.local))

    def _here(self, channel: str) -> Address:
        address = Address.parse(channel)
        if address.inbox != self.crossbar.inbox:
            raise GredisError(
                f"{channel!r} belongs to another process: only the process that made a channel "
                "may add it to groups or take it out of them"
            )
        return address

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to all members; one that has no room drops it, as the contract says."""
        self.require_valid_group_name(group)
        _require_message(message)
        await _reply(lambda: self.crossbar.multicast_soon(group, message))

    # -- the rest of the contract

    async def flush(self) -> None:
        """Forget every group, channel and message, here and for everybody with this prefix."""
        self.channels.clear()
        await _reply(self.crossbar.flush)

    async def close(self) -> None:
        """Close this process's end of the crossbar."""
        self.crossbar.close()


def _nobody(body: bytes) -> None:
    """The receiver of a channel until it is opened."""


def _require_message(message: Message) -> None:
    if not isinstance(message, dict):
        raise TypeError(f"got a message of type {type(message).__name__}, expected a dict")


async def _reply(call: Callable[[], AsyncResult | None]) -> Any:
    """What the crossbar answers to `call`, awaited on the running loop."""
    loop = asyncio.get_running_loop()
    if not getattr(loop, "on_gevent", False):
        raise GredisError(
            f"got a loop of type {type(loop).__name__}, expected one that runs on gevent: "
            "call thyme.loop.install() first, in a process patched by gevent"
        )
    result = call()
    if result is None:
        return None
    future: asyncio.Future[Any] = loop.create_future()
    result.rawlink(lambda done: loop.call_soon_threadsafe(_settle, future, done))
    return await future


def _settle(future: asyncio.Future[Any], result: AsyncResult) -> None:
    if future.done():
        return
    if result.successful():
        future.set_result(result.value)
    else:
        future.set_exception(result.exception)
