"""Database connections of greenlets: which greenlets may hold one, and closing those in time.

Django keeps its connections per thread, and in a patched process each greenlet counts as one. Most
handlers of most consumers use no database, and to ask Django for the connections of a greenlet
costs some microseconds. So a signal of Django's marks the greenlets that have opened one, and the
others are not asked.
"""

from __future__ import annotations

from typing import Any

import gevent
from django.db import connections
from django.db.backends.signals import connection_created


def mark_greenlets_that_connect() -> None:
    """Start to mark greenlets, for `used_database`. Idempotent."""
    connection_created.connect(_mark, dispatch_uid="thyme.fastpath.database")


def _mark(**details: Any) -> None:
    gevent.getcurrent().used_database = True


def used_database(greenlet: Any) -> bool:
    """Return whether `greenlet` may hold an open database connection."""
    return getattr(greenlet, "used_database", False)


def close_old_connections() -> None:
    """As Django's function of this name, for the current greenlet."""
    greenlet = gevent.getcurrent()
    if used_database(greenlet):
        known = connections.all(initialized_only=True)
        for connection in known:
            connection.close_if_unusable_or_obsolete()
        if not any(connection.connection is not None for connection in known):
            greenlet.used_database = False
