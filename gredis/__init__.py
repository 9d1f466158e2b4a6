"""Gredis: a crossbar between processes (unicast, anycast, multicast), and a channel layer on it.

Read `names.py` first, then `crossbar.py`.
"""

from gredis.layer import GredisChannelLayer

__all__ = ["GredisChannelLayer"]
