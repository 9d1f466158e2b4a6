"""The channel layer: Channels' contract on the crossbar.

    CHANNEL_LAYERS = {"default": {"BACKEND": "gredis.GredisChannelLayer", "CONFIG": {"url": …}}}

A channel name with "!" is an address, so it is sent to by unicast; any other is a queue, sent to by
anycast; a group is a group. Channels' specification has the contract of each method:
https://channels.readthedocs.io/en/latest/channel_layer_spec.html

The running loop decides the driver: on gevent, all code shares the process's crossbar; on stock
asyncio, each loop has its own. So the layer works in any process, also in
`async_to_sync(layer.group_send)` from a plain thread. A channel belongs to the loop that made it.

Deviations from channels_redis: only the process that made a channel may add it to groups.
Memberships end with their channel or process, not after a time (`group_expiry`). A channel ends
with the task that made it, once no `receive` waits for it. A full channel of another process drops
messages and counts them there; its sender gets `ChannelFull` only if that whole inbox is full.

Taught in notebooks/07_crossbar.ipynb. Read next: `channels/channel.py`, then
`thyme/split/relay/gevent.py`, the other user of the crossbar.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from gredis.channels.channel import Channel, ChannelMessage, MessageCache, ReceivedMessage
from gredis.channels.confirms import ConfirmCounter
from gredis.channels.encryption import Cipher
from gredis.client import Urls
from gredis.drivers import connect, running_loop
from gredis.errors import DecryptionFailed, GredisError
from gredis.messages import pack
from gredis.names import SEPARATOR, Address, new_local
from gredis.session import TIMEOUT_SECONDS

log = logging.getLogger("gredis")

RECEIVE_ROOM = 100
"""Messages of a shared channel that one process holds; beyond that they wait in Redis."""

WARNING_SECONDS = 10.0
"""Minimum time between two warnings about dropped messages; each one has their number."""

LOSS = "messages.lost"
"""Type of the event that reports losses to a consumer, with `announce_losses`."""


class ChannelTable:
    """The channels that are received from on one crossbar; shared by all layers that use it."""

    def __init__(self, crossbar: Any) -> None:
        self.crossbar = crossbar
        self.channels: dict[str, Channel] = {}
        self.cache = MessageCache()
        self.connected = False
        crossbar.router.watch_losses(self._record_loss)

    def _record_loss(self, count: int | None) -> None:
        for channel in list(self.channels.values()):
            channel.record_loss(count)


class GredisChannelLayer(BaseChannelLayer):
    """Channels' channel layer on the crossbar of this process, or of this loop.

    `url`: that of Redis or a hub, or several, see `location.py`. `prefix`: of all keys.
    `capacity`: messages of one channel that have not been received yet (`channel_capacity`: the
    same by pattern). `expiry`: seconds after which such a message is dropped. `group_expiry` is
    accepted for compatibility and has no effect: memberships end with their channel.
    `symmetric_encryption_keys`: see `channels/encryption.py`. `timeout`: seconds that callers wait
    for a Redis that is away, and confirmed senders for full receivers. `wait_for_receivers`: the
    default of `group_send(…, wait=…)`. `announce_losses`: whether a consumer receives
    {"type": "messages.lost", "count": number or None} when messages for it were lost.
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
        self._cipher = Cipher(symmetric_encryption_keys)
        self._last_warning = (-WARNING_SECONDS, 0)  # when, and `dropped` at that time
        self._recent: tuple[Callable[[], Any], ChannelTable] | None = None

    @property
    def crossbar(self) -> Any:
        """The crossbar of this process (on gevent), or of the running loop (on stock asyncio)."""
        crossbar = connect(self.url, self.prefix)
        crossbar.timeout = self.timeout
        crossbar.start()
        return crossbar

    def metrics(self) -> list[Any]:
        """Return queue lengths and message counters of this process, for /metrics. On gevent."""
        from gredis.status import metrics

        return list(metrics(self.crossbar))

    def _table(self) -> ChannelTable:
        """Return the table of this process or loop; the one used last is remembered."""
        loop = running_loop()
        recent = self._recent
        if recent is not None and recent[0]() is loop and not recent[1].crossbar.closed:
            return recent[1]
        found: ChannelTable = self.crossbar.shared(ChannelTable)
        if loop is not None:
            self._recent = weakref.ref(loop), found
        return found

    # -- sending

    async def send(self, channel: str, message: ChannelMessage) -> None:
        """Send a message to a channel. Raises `ChannelFull`, and `TypeError` for a bad name."""
        self.require_valid_channel_name(channel)
        body = self._pack(message)
        if SEPARATOR in channel:
            await self._send_to_address(channel, body)
            return
        capacity, crossbar = self.get_capacity(channel), self.crossbar
        reply = crossbar.anycast_packed(channel, body, capacity, self.expiry)
        if await crossbar.await_reply(reply) == b"FULL":
            raise ChannelFull(f"channel {channel!r} is full: {capacity} messages wait in it")

    async def _send_to_address(self, channel: str, body: bytes) -> None:
        table, address = self._table(), Address.parse(channel)
        local = table.channels.get(channel)
        if local is not None:
            if local.full:
                raise ChannelFull(
                    f"channel {channel!r} is full: it holds {local.capacity} messages"
                )
            local.reserved += 1  # the next sender must count this message, too
        try:
            reply = await table.crossbar.await_reply(table.crossbar.unicast_packed(address, body))
        except GredisError:
            if local is not None:
                local.reserved = max(0, local.reserved - 1)
            raise
        if reply == b"FULL":
            raise ChannelFull(f"the inbox of the process that has channel {channel!r} is full")

    def _pack(self, message: ChannelMessage) -> bytes:
        if not isinstance(message, dict):
            raise TypeError(f"got a message of type {type(message).__name__}, expected a dict")
        return self._cipher.encrypt(pack(message))

    # -- receiving

    async def receive(self, channel: str) -> ChannelMessage:
        """Wait for the next message of a channel, and return it."""
        table, loop = self._table(), asyncio.get_running_loop()
        found = table.channels.get(channel)
        if found is None:
            self.require_valid_channel_name(channel)
            found = self._open(table, channel)
            if SEPARATOR not in channel:
                reply = table.crossbar.consume(channel, found.put, RECEIVE_ROOM)
                await table.crossbar.await_reply(reply)
        while (loss := self._loss_event(found)) is None:
            received = None if found.waiting else found.get_nowait()
            if received is None:
                arrival = found.get(loop)
                try:
                    received = await arrival
                except asyncio.CancelledError:
                    found.cancel_get(arrival)
                    self._on_receive_cancelled(table, found)
                    raise
                if received is None:
                    continue  # messages were lost
            if SEPARATOR not in channel:
                table.crossbar.task_done(channel)
            if (message := self._decode(received)) is not None:
                return message
        return loss

    def _on_receive_cancelled(self, table: ChannelTable, channel: Channel) -> None:
        """Close a channel that is no longer received from, now or when its owner ends.

        A cancelled `receive` may be a time-out, after which the consumer receives again, or the end
        of that consumer. Consumers make their channel and receive from it until they end. So the
        channel is closed when the task that made it ends.
        """
        if SEPARATOR not in channel.name:
            return
        owner = channel.owner
        if owner is None or owner.done():
            if not channel.messages and not channel.waiting:
                self._close(table, channel.name)
        elif not channel.ends_with_owner:
            channel.ends_with_owner = True
            owner.add_done_callback(lambda owner: self._on_owner_done(table, channel))

    def _on_owner_done(self, table: ChannelTable, channel: Channel) -> None:
        if not channel.waiting and table.channels.get(channel.name) is channel:
            self._close(table, channel.name)

    def _decode(self, received: ReceivedMessage) -> ChannelMessage | None:
        try:
            return received.decode(self._cipher)
        except DecryptionFailed as error:
            self._count_drop(str(error))
            return None

    def _loss_event(self, channel: Channel) -> ChannelMessage | None:
        """Return the event that reports what the channel has lost, if there is something."""
        if not self.announce_losses or not (channel.lost or channel.loss_unknown):
            return None
        return {"type": LOSS, "count": channel.take_losses()}

    def listen(
        self, channel: str, notify: Callable[[], None]
    ) -> Callable[[], ChannelMessage | None]:
        """Receive without coroutines: call `notify`, which must not block, when messages arrive.

        Return a function that returns the next message, or None. This is an extension of the
        contract, for a channel of this process for which `receive` is not called.
        """
        found = self._table().channels[channel]
        found.listen(notify)

        def next_message() -> ChannelMessage | None:
            if (loss := self._loss_event(found)) is not None:
                return loss
            while (received := found.get_nowait()) is not None:
                if (message := self._decode(received)) is not None:
                    return message
            return None

        return next_message

    def unlisten(self, channel: str) -> None:
        """Close a channel for which `listen` was called."""
        self._close(self._table(), channel)

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel that only this process receives from."""
        table = self._table()
        if not table.connected:  # an unreachable Redis is reported with the first channel
            for reply in table.crossbar.ping():
                await table.crossbar.await_reply(reply)
            table.connected = True
        channel = f"{prefix}.{Address(table.crossbar.inbox, new_local())}"
        self._open(table, channel, owner=asyncio.current_task())
        return channel

    def _open(
        self, table: ChannelTable, channel: str, owner: asyncio.Task[Any] | None = None
    ) -> Channel:
        local = SEPARATOR in channel
        opened = table.channels[channel] = Channel(
            channel,
            capacity=self.get_capacity(channel),
            expiry=self.expiry,
            router=table.crossbar.router,
            cache=table.cache,
            on_drop=self._count_drop if local else partial(self._drop_task, table),
            report_losses=self.announce_losses,
            owner=owner,
        )
        if local:
            name = Address.parse(channel).local
            table.crossbar.router.add(opened.put, name, opened.when_room)
        return opened

    def _close(self, table: ChannelTable, channel: str) -> None:
        closed = table.channels.pop(channel, None)
        if closed is not None:
            closed.release_senders()
        if not table.crossbar.closed:
            table.crossbar.remove(Address.parse(channel).local)

    def _drop_task(self, table: ChannelTable, queue: str) -> None:
        """Count a dropped message of a shared channel, which makes room for another one."""
        self._count_drop(queue)
        table.crossbar.task_done(queue)

    def _count_drop(self, cause: str) -> None:
        """Count a dropped message, and log a warning from time to time."""
        self.dropped += 1
        then, count = self._last_warning
        now = time.monotonic()
        if now - then >= WARNING_SECONDS:
            log.warning("%d messages dropped, the last one by %s", self.dropped - count, cause)
            self._last_warning = (now, self.dropped)

    # -- groups

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel of this process a member of a group."""
        address, crossbar = self._member(group, channel)
        await crossbar.await_reply(crossbar.join(group, address.local))

    async def group_discard(self, group: str, channel: str) -> None:
        """End a membership. No error if there is none."""
        address, crossbar = self._member(group, channel)
        await crossbar.await_reply(crossbar.leave(group, address.local))

    def _member(self, group: str, channel: str) -> tuple[Address, Any]:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        address, crossbar = Address.parse(channel), self.crossbar
        if address.inbox != crossbar.inbox:
            raise GredisError(
                f"channel {channel!r} belongs to another process or loop: add it to groups, and "
                "discard it, where new_channel() was called"
            )
        return address, crossbar

    async def group_send(
        self, group: str, message: ChannelMessage, wait: bool | None = None
    ) -> None:
        """Send a message to all members.

        A member that has no room drops it, as the contract says. With `wait` (None: as configured
        by `wait_for_receivers`) this returns when all members have room for another message, so
        that a burst of one sender arrives complete. Raises `ChannelFull` if a member has no room
        for `timeout` seconds.
        """
        self.require_valid_group_name(group)
        body, crossbar = self._pack(message), self._table().crossbar
        if not (self.wait_for_receivers if wait is None else wait):
            await crossbar.await_reply(crossbar.multicast_packed(group, body))
            return
        confirms = ConfirmCounter(crossbar.router, asyncio.get_running_loop())
        try:
            sending = crossbar.multicast_packed(group, body, confirms.address)
            reached, full, *absent = await crossbar.await_reply(sending)
            processes = reached + full - len(absent)
            if full or not await confirms.wait_for(processes, self.timeout):
                raise ChannelFull(f"a member of group {group!r} has had no room for too long")
        finally:
            confirms.close()

    # -- the rest of the contract

    async def flush(self) -> None:
        """Delete all groups, channels and messages, for all processes with this prefix."""
        table = self._table()
        for name, channel in table.channels.items():
            channel.release_senders()
            if SEPARATOR not in name:
                table.crossbar.stop_consuming(name)
        table.channels.clear()
        for reply in table.crossbar.flush():
            await table.crossbar.await_reply(reply)

    async def close(self) -> None:
        """Close the crossbar of this process, or of this loop."""
        if (closing := self.crossbar.close()) is not None:
            await closing
