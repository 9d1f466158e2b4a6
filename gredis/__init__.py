"""Gredis: a crossbar between processes (unicast, anycast, multicast), and a channel layer on it.

    CHANNEL_LAYERS = {"default": {"BACKEND": "gredis.GredisChannelLayer", "CONFIG": {"url": …}}}

Read `names.py` first, then `messages.py`, `router.py`, `carriers/redis.py` with its `scripts/`,
`session.py`, `client.py`, `drivers/gevent.py` beside `drivers/asyncio.py`, and `channels/layer.py`.
The TCP carrier is in `carriers/tcp.py`, `hub/state.py` and `hub/server.py`; `python -m gredis` runs
it.
"""

from typing import Any

__all__ = ["GredisChannelLayer"]


def __getattr__(name: str) -> Any:
    # Only who asks for the channel layer needs Channels installed and imported.
    if name == "GredisChannelLayer":
        from gredis.channels.layer import GredisChannelLayer

        return GredisChannelLayer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
