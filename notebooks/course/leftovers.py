"""What a chapter has left behind: its last cell asserts that this is nothing.

    at_first = leftovers.take_stock()               among the first cells
    assert leftovers.since(at_first) == []          in the last: what is there and was not before

Looked at: child processes, threads, greenlets that have not ended, listening sockets of this
process; keys of a Redis and rows of a Postgres, when they are given to both calls.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import gevent
import psutil
from greenlet import greenlet

SECONDS = 30.0  # what is on its way out may take this long to be gone


def take_stock(redis: Any = None, postgres: Any = None) -> set[tuple[str, object]]:
    """All that there is now, as (kind, which).

    `redis`: a `redis.Redis`; its keys are looked at. `postgres`: a psycopg2 connection; the number
    of rows of each table of the schema "public" is looked at.
    """
    process = psutil.Process()
    stock: set[tuple[str, object]] = {("child", child.pid) for child in process.children()}
    stock |= {("thread", thread.name) for thread in threading.enumerate() if not _kernels(thread)}
    listening = [each for each in process.net_connections() if each.status == psutil.CONN_LISTEN]
    stock |= {("listening socket", each.laddr.port) for each in listening}
    if redis is not None:
        stock |= {("key", key) for key in redis.scan_iter()}
    if postgres is not None:
        stock |= {("rows", rows) for rows in _rows(postgres)}
    return stock | {("greenlet", name) for name in _greenlets()}


def since(
    at_first: set[tuple[str, object]], redis: Any = None, postgres: Any = None
) -> list[tuple[str, object]]:
    """What is there now and was not then; what is about to go is waited for."""
    deadline = time.monotonic() + SECONDS
    while left := take_stock(redis, postgres) - at_first:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return sorted(left, key=repr)


def _kernels(thread: threading.Thread) -> bool:
    """pyzmq starts one the first time that a kernel sends a large picture (64 kB), and keeps it."""
    return type(thread).__module__.startswith("zmq.")


def _greenlets() -> list[str]:
    """Greenlets that were started and have not ended, but for the hubs of living threads."""
    gc.collect()
    return [
        f"{type(each).__name__} {id(each):x}"
        for each in gc.get_objects()
        if issubclass(type(each), gevent.Greenlet) and each.started and not each.dead
    ] + [
        f"greenlet {id(each):x}"
        for each in gc.get_objects()
        if type(each) is greenlet and each and each.parent is not None
    ]


def _rows(postgres: Any) -> list[tuple[str, int]]:
    with postgres.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        counts = []
        for table in tables:
            cursor.execute(f'SELECT count(*) FROM "{table}"')  # noqa: S608 - names from Postgres
            counts.append((table, cursor.fetchone()[0]))
    postgres.rollback()
    return counts
