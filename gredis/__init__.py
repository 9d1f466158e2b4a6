"""Gredis: a crossbar between processes (unicast, anycast, multicast), and a channel layer on it.

    CHANNEL_LAYERS = {"default": {"BACKEND": "gredis.GredisChannelLayer", "CONFIG": {"url": …}}}

    crossbar = gredis.connect("redis://localhost:6379")

The public names below are imported on first use: the channel layer needs Channels, and `connect`
imports only the driver that the running event loop calls for, so a process on plain asyncio never
imports gevent.

Read `names.py` first, then `messages.py`, `router.py`, `carriers/redis.py` with its `scripts/`,
`session.py`, `client.py`, `drivers/gevent.py` beside `drivers/asyncio.py`, and `channels/layer.py`.
The TCP carrier is in `carriers/tcp.py`, `hub/state.py` and `hub/server.py`; `python -m gredis` runs
it.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gredis.channels.layer import GredisChannelLayer
    from gredis.drivers import connect

    __version__: str

__all__ = ["GredisChannelLayer", "__version__", "connect"]


def __getattr__(name: str) -> Any:
    if name == "GredisChannelLayer":
        from gredis.channels.layer import GredisChannelLayer

        return GredisChannelLayer
    if name == "connect":
        from gredis.drivers import connect

        return connect
    if name == "__version__":
        return version("thyme")  # gredis is part of that distribution
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
