"""Drivers: they connect, wait and write, one on gevent and one on asyncio.

This file chooses between them. Everything that must be the same in both is in `client.py` and
`session.py`. Read next: `drivers/gevent.py` beside `drivers/asyncio.py`.
"""

from __future__ import annotations

# Not `import asyncio`: that name belongs to the submodule `drivers/asyncio.py`.
from asyncio import AbstractEventLoop, get_running_loop
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gredis.client import Urls


def running_loop() -> AbstractEventLoop | None:
    """Return the running event loop, or None in plain code (a greenlet of its own)."""
    try:
        return get_running_loop()
    except RuntimeError:
        return None


def runs_on_gevent(loop: AbstractEventLoop) -> bool:
    """Return whether an event loop lets other greenlets run while it waits.

    Such a loop says so by an attribute, `on_gevent = True` (as `thyme.loop` does). It gets the
    gevent driver, so that it shares the process's crossbar with all greenlets.
    """
    return bool(getattr(loop, "on_gevent", False))


def connect(url: Urls, prefix: str = "gredis") -> Any:
    """Return the crossbar of this process or loop for `url`, made on first use.

    On gevent (a loop that runs on gevent, or no loop at all) it is the thread's `GeventCrossbar`;
    on any other event loop it is that loop's own `AsyncioCrossbar`.
    """
    loop = running_loop()
    if loop is None or runs_on_gevent(loop):
        from gredis.drivers import gevent as driver
    else:
        from gredis.drivers import asyncio as driver  # type: ignore[no-redef]
    return driver.connect(url, prefix)
