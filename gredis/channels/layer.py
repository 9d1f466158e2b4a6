"""The channel layer: Channels' contract on the crossbar.

    CHANNEL_LAYERS = {"default": {"BACKEND": "gredis.GredisChannelLayer", "CONFIG": {"url": …}}}

A channel name with "!" is an address and is sent to by unicast, any other is a queue and is sent to
by anycast; a group is a group. What the contract says of each method is in Channels' specification:
https://channels.readthedocs.io/en/latest/channel_layer_spec.html

The driver is that of the running loop: on gevent all share the process's crossbar, on stock asyncio
each loop has its own. So the layer works in any process, also in `async_to_sync(layer.group_send)`
from a plain thread; a channel belongs to the loop it was made in.

Where we differ: only the process that made a channel may add it to groups; memberships end with
their channel or process and not with time (`group_expiry`), and a channel ends with the task that
has made it once nobody receives from it any more; a channel of another process that is
full drops messages, counted there, while its sender sees `ChannelFull` only when its whole inbox is
full.

Taught in notebooks/07_crossbar.ipynb. Read next: `channels/channel.py`, then
`thyme/split/relay/gevent.py`, the other user of the crossbar.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from gredis.channels.channel import Channel, Message, MessageCache, ReceivedMessage
from gredis.channels.confirms import ConfirmCounter, Confirmer
from gredis.channels.encryption import Cipher
from gredis.client import TIMEOUT_SECONDS, Urls
from gredis.errors import DecryptionFailed, GredisError
from gredis.messages import pack
from gredis.names import SEPARATOR, Address

log = logging.getLogger("gredis")

RECEIVE_ROOM = 100
"""Messages of a shared channel that one process may hold before they wait in Redis instead."""

WARNING_SECONDS = 10.0
"""Between two warnings about dropped messages; each says how many there were."""

LOSS = "messages.lost"
"""Type of the event that says how many messages a channel has lost, with `announce_losses`."""


class ChannelTable:
    """The channels that are received from on one crossbar; it ends with it."""

    def __init__(self, crossbar: Any) -> None:
        self.crossbar = crossbar
        self.channels: dict[str, Channel] = {}
        self.posts = MessageCache()
        self.connected = False
        acknowledger = Confirmer(crossbar.send_confirm, self._find)
        crossbar.router.acknowledge = acknowledger
        crossbar.router.watch_losses(self._lose)

    def _find(self, local: str) -> Channel | None:
        receiver = self.crossbar.router.receiver(local)
        channel = getattr(receiver, "__self__", None)
        return channel if isinstance(channel, Channel) else None

    def _lose(self, count: int | None) -> None:
        for channel in list(self.channels.values()):
            channel.on_loss(count)


class GredisChannelLayer(BaseChannelLayer):
    """Channels' channel layer on the crossbar of this process, or of this loop.

    `url`: where Redis or the hub is, or several of them, see `location.py`; `prefix`: of all keys.
    `capacity`: messages of one channel that nobody has received yet (`channel_capacity`: the same
    by pattern); `expiry`: seconds after which a message that nobody has received is dropped.
    `group_expiry` is accepted and has no effect: memberships end with their channel.
    `symmetric_encryption_keys`: see `channels/encryption.py`. `timeout`: seconds that callers wait
    for a Redis that is away, and waiting senders for a full receiver. `wait_for_receivers`: whether
    `group_send` waits for full receivers unless told otherwise. `announce_losses`: whether a
    consumer receives {"type": "messages.lost", "count": number or None} when messages for it were
    lost.
    """

    extensions = ("groups", "flush")

    def __init__(
        self,
        url: Urls = "redis://localhost:6379",
        prefix: str = "gredis",
        *,
        capacity: int = 100,
        expiry: float = 60,
        group_expiry: float | None = 86400,
        channel_capacity: dict[Any, int] | None = None,
        symmetric_encryption_keys: list[str | bytes] | tuple[()] = (),
        timeout: float = TIMEOUT_SECONDS,
        wait_for_receivers: bool = False,
        announce_losses: bool = False,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self.url = url
        self.prefix = prefix
        self.timeout = timeout
        self.wait_for_receivers = wait_for_receivers
        self.announce_losses = announce_losses
        self.dropped = 0
        self._seal = Cipher(symmetric_encryption_keys)
        self._warned = (-WARNING_SECONDS, 0)
        self._near: tuple[Callable[[], Any], ChannelTable] | None = None

    @property
    def crossbar(self) -> Any:
        """The crossbar of this process (on gevent), or of the running loop (on stock asyncio)."""
        loop = _running_loop()
        if loop is None or getattr(loop, "on_gevent", False):  # no loop: a greenlet of its own
            from gredis.drivers import gevent as driver
        else:
            from gredis.drivers import asyncio as driver  # type: ignore[no-redef]
        crossbar = driver.connect(self.url, self.prefix)
        crossbar.timeout = self.timeout
        crossbar.start()
        return crossbar

    def metrics(self) -> list[Any]:
        """Queue lengths and drops of this process, on gevent, for thyme's /metrics."""
        from gredis.status import metrics

        return list(metrics(self.crossbar))

    def _desk(self) -> ChannelTable:
        """The desk of this process or loop; the last one asked for is at hand."""
        loop = _running_loop()
        near = self._near
        if near is not None and near[0]() is loop and not near[1].crossbar.closed:
            return near[1]
        crossbar = self.crossbar
        if crossbar.desk is None:
            crossbar.desk = ChannelTable(crossbar)
        found: ChannelTable = crossbar.desk
        if loop is not None:
            self._near = weakref.ref(loop), found
        return found

    # -- sending

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to a channel; raises `ChannelFull`, and `TypeError` for a bad name."""
        self.require_valid_channel_name(channel)
        body = self._pack(message)
        if SEPARATOR in channel:
            await self._send_to_address(channel, body)
            return
        waiting, crossbar = self.get_capacity(channel), self.crossbar
        reply = crossbar.anycast_packed(channel, body, waiting, self.expiry)
        if await crossbar.await_reply(reply) == b"FULL":
            raise ChannelFull(f"channel {channel!r} holds {waiting} messages")

    async def _send_to_address(self, channel: str, body: bytes) -> None:
        desk, address = self._desk(), Address.parse(channel)
        here = desk.channels.get(channel)
        if here is not None:
            if here.full:
                raise ChannelFull(f"channel {channel!r} holds {here.capacity} messages")
            here.promised += 1  # the next sender must count this one, too
        try:
            reply = await desk.crossbar.await_reply(desk.crossbar.unicast_packed(address, body))
        except GredisError:
            if here is not None:
                here.promised = max(0, here.promised - 1)
            raise
        if reply == b"FULL":
            raise ChannelFull(f"the inbox of {channel!r} is full")

    def _pack(self, message: Message) -> bytes:
        if not isinstance(message, dict):
            raise TypeError(f"got a message of type {type(message).__name__}, expected a dict")
        return self._seal.encrypt(pack(message))

    # -- receiving

    async def receive(self, channel: str) -> Message:
        """The next message of a channel; waits for it."""
        desk, loop = self._desk(), asyncio.get_running_loop()
        found = desk.channels.get(channel)
        if found is None:
            self.require_valid_channel_name(channel)
            found = self._open(desk, channel)
            if SEPARATOR not in channel:
                taken = desk.crossbar.consume(channel, self._taker(desk, found), RECEIVE_ROOM)
                await desk.crossbar.await_reply(taken)
        while (lost := self._losses(found)) is None:
            post = None if found.waiting else found.get_nowait()
            if post is None:
                arrival = found.wait(loop)
                try:
                    post = await arrival
                except asyncio.CancelledError:
                    found.cancel_get(arrival)
                    self._receiver_left(desk, found)
                    raise
                if post is None:
                    continue  # messages were lost
            if SEPARATOR not in channel:
                desk.crossbar.task_done(channel)
            if (message := self._open_post(post)) is not None:
                return message
        return lost

    def _receiver_left(self, desk: ChannelTable, channel: Channel) -> None:
        """A call of `receive` was cancelled: for a while, or because a consumer ends?

        Consumers make their channel, and receive from it until they end: so a channel whose
        receiver was cancelled ends with the task that has made it.
        """
        if SEPARATOR not in channel.name:
            return
        owner = channel.owner()
        if owner is None or owner.done():
            if not channel.posts and not channel.waiting:
                self._close(desk, channel.name)
        elif not channel.ends_with_owner:
            channel.ends_with_owner = True
            owner.add_done_callback(lambda owner: self._owner_ended(desk, channel))

    def _owner_ended(self, desk: ChannelTable, channel: Channel) -> None:
        if not channel.waiting and desk.channels.get(channel.name) is channel:
            self._close(desk, channel.name)

    def _taker(self, desk: ChannelTable, channel: Channel) -> Callable[[bytes], None]:
        """The receiver of a shared channel: what it drops makes room for another, too."""

        def on_drop(name: str) -> None:
            self._count_drop(name)
            desk.crossbar.task_done(name)

        channel.on_drop = on_drop
        return channel.put

    def _open_post(self, post: ReceivedMessage) -> Message | None:
        try:
            return post.decode(self._seal)
        except DecryptionFailed as error:
            self._count_drop(str(error))
            return None

    def _losses(self, channel: Channel) -> Message | None:
        """The event that says what the channel has lost, when there is something to say."""
        if not self.announce_losses or not (channel.lost or channel.loss_unknown):
            return None
        return {"type": LOSS, "count": channel.losses()}

    def listen(self, channel: str, notify: Callable[[], None]) -> Callable[[], Message | None]:
        """Receive without coroutines: `notify` is called, and must not block, when messages come.

        What is returned gives the next message, or None when there is none at the moment. An
        extension of ours, for a channel of this process that nobody calls `receive` for.
        """
        found = self._desk().channels[channel]
        found.notify = notify

        def next_message() -> Message | None:
            if (lost := self._losses(found)) is not None:
                return lost
            while (post := found.get_nowait()) is not None:
                if (message := self._open_post(post)) is not None:
                    return message
            return None

        return next_message

    def unlisten(self, channel: str) -> None:
        """The channel has ended."""
        self._close(self._desk(), channel)

    async def new_channel(self, prefix: str = "specific") -> str:
        """The name of a new channel that only this process receives from."""
        desk = self._desk()
        if not desk.connected:  # a process that cannot reach Redis says so with its first channel
            for reply in desk.crossbar.ping():
                await desk.crossbar.await_reply(reply)
            desk.connected = True
        channel = f"{prefix}.{desk.crossbar.router.add(_nobody)}"
        opened = self._open(desk, channel)
        task = asyncio.current_task()
        if task is not None:
            opened.owner = weakref.ref(task)
        return channel

    def _open(self, desk: ChannelTable, channel: str) -> Channel:
        opened = Channel(
            channel,
            self.get_capacity(channel),
            self.expiry,
            desk.crossbar.router,
            desk.posts,
            self._count_drop,
            self.announce_losses,
        )
        desk.channels[channel] = opened
        if SEPARATOR in channel:
            desk.crossbar.router.add(opened.put, Address.parse(channel).local)
        return opened

    def _close(self, desk: ChannelTable, channel: str) -> None:
        closed = desk.channels.pop(channel, None)
        if closed is not None:
            closed.release()
        if not desk.crossbar.closed:
            desk.crossbar.remove(Address.parse(channel).local)

    def _count_drop(self, name: str) -> None:
        """A message was dropped: count it, and say so now and then."""
        self.dropped += 1
        then, count = self._warned
        now = time.monotonic()
        if now - then >= WARNING_SECONDS:
            log.warning("%d messages dropped, the last one by %s", self.dropped - count, name)
            self._warned = (now, self.dropped)

    # -- groups

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel of this process a member of a group."""
        address, crossbar = self._member(group, channel)
        await crossbar.await_reply(crossbar.join(group, address.local))

    async def group_discard(self, group: str, channel: str) -> None:
        """End a membership; no error when there is none."""
        address, crossbar = self._member(group, channel)
        await crossbar.await_reply(crossbar.leave(group, address.local))

    def _member(self, group: str, channel: str) -> tuple[Address, Any]:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        address, crossbar = Address.parse(channel), self.crossbar
        if address.inbox != crossbar.inbox:
            raise GredisError(
                f"{channel!r} belongs to another process or loop: only where a channel was made "
                "may it be added to groups or taken out of them"
            )
        return address, crossbar

    async def group_send(self, group: str, message: Message, wait: bool | None = None) -> None:
        """Send a message to all members.

        A member that has no room drops it, as the contract says. With `wait` (None: as configured
        by `wait_for_receivers`) this returns when all members have room for another one, so that a
        burst of one sender arrives whole; raises `ChannelFull` when one has none for `timeout`
        seconds.
        """
        self.require_valid_group_name(group)
        body, desk = self._pack(message), self._desk()
        crossbar = desk.crossbar
        if not (self.wait_for_receivers if wait is None else wait):
            await crossbar.await_reply(crossbar.multicast_packed(group, body))
            return
        told = ConfirmCounter(crossbar.router, asyncio.get_running_loop())
        try:
            reply = await crossbar.await_reply(crossbar.multicast_packed(group, body, told.address))
            reached, full, *absent = reply
            if full or not await told.by(reached + full - len(absent), self.timeout):
                raise ChannelFull(f"a receiver of group {group!r} has had no room for too long")
        finally:
            told.close()

    # -- the rest of the contract

    async def flush(self) -> None:
        """Forget every group, channel and message, here and for everybody with this prefix."""
        desk = self._desk()
        for name, channel in desk.channels.items():
            channel.release()
            if SEPARATOR not in name:
                desk.crossbar.stop_consuming(name)
        desk.channels.clear()
        for reply in desk.crossbar.flush():
            await desk.crossbar.await_reply(reply)

    async def close(self) -> None:
        """Close the crossbar of this process, or of this loop."""
        if (closing := self.crossbar.close()) is not None:
            await closing


def _nobody(body: bytes) -> None:
    """The receiver of a channel until it is opened."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
