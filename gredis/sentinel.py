"""Sentinels: what to ask them, and how to read the answer. No I/O.

A sentinel is a Redis that knows where the master of a group of Redis servers is at the moment.
After a failover the connection is lost, and drivers ask again when they make it anew. What the old
master had not yet copied is lost, as Redis's replication is asynchronous; each process notices a
gap or a reset of its numbers and says so.

https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

from typing import Any

import hiredis


def encode_query(name: str) -> bytes:
    """What to send to a sentinel."""
    command: tuple[Any, ...] = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
    asked: bytes = hiredis.pack_command(command)
    return asked


def decode_answer(answer: bytes, name: str) -> tuple[str, int]:
    """Host and port in a sentinel's answer; `ConnectionError` when there are none."""
    reader = hiredis.Reader()
    reader.feed(answer)
    found = reader.gets()
    if not isinstance(found, list) or len(found) != 2:
        raise ConnectionError(f"it answered {found!r} about {name!r}")
    return found[0].decode(), int(found[1])
