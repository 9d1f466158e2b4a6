"""The switch of the fast path: everything that is replaced in Channels, and how to undo it.

The names, the reasons and the versions they were tried with are listed in `thyme/replaced.py`,
together with all other names of foreign packages that thyme depends on.
"""

from __future__ import annotations

from typing import Any

import channels.consumer
import channels.generic.http
import channels.generic.websocket
from channels.consumer import SyncConsumer
from channels.db import aclose_old_connections as stock_close_old_connections
from channels.utils import await_many_dispatch as stock_dispatch

from thyme.fastpath import async_consumers, sync_consumers
from thyme.fastpath.database import mark_greenlets_that_connect
from thyme.replaced import check

_CLOSERS: tuple[Any, ...] = (channels.consumer, channels.generic.websocket, channels.generic.http)


def install() -> None:
    """Let the consumers that run behind our bridge take the fast path. Idempotent.

    Raises `thyme.errors.Incompatible` when Channels has none of these names any more.
    """
    check("channels")
    mark_greenlets_that_connect()
    SyncConsumer.__call__ = sync_consumers.call
    channels.consumer.await_many_dispatch = async_consumers.await_many_dispatch
    for module in _CLOSERS:
        module.aclose_old_connections = async_consumers.aclose_old_connections


def uninstall() -> None:
    """Let all consumers run Channels' own path again."""
    if "__call__" in vars(SyncConsumer):
        del SyncConsumer.__call__
    channels.consumer.await_many_dispatch = stock_dispatch
    for module in _CLOSERS:
        module.aclose_old_connections = stock_close_old_connections
