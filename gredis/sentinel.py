"""Redis Sentinel: the query for the current master, and its answer. No I/O.

A sentinel knows which server of a replicated group is the master. After a failover the connection
is lost, and drivers query again before they reconnect. Redis replicates asynchronously, so writes
that the old master had not yet copied are lost. Each process detects that by a gap or a reset of
its message numbers and reports it.

https://redis.io/docs/latest/develop/reference/sentinel-clients/
Read next: `drivers/gevent.py`.
"""

from __future__ import annotations

from typing import Any

import hiredis


def encode_query(name: str) -> bytes:
    """Return the bytes that ask a sentinel for the master of the group `name`."""
    command: tuple[Any, ...] = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
    query: bytes = hiredis.pack_command(command)
    return query


def decode_answer(answer: bytes, name: str) -> tuple[str, int]:
    """Return host and port from a sentinel's answer. Raises `ConnectionError` if it has none."""
    reader = hiredis.Reader()
    reader.feed(answer)
    found = reader.gets()
    if not isinstance(found, list) or len(found) != 2:
        raise ConnectionError(f"the sentinel answered {found!r} about {name!r}")
    return found[0].decode(), int(found[1])
