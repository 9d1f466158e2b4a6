"""Database connections of greenlets: which greenlets may hold one, and when it is closed."""

from __future__ import annotations

from typing import Any

import gevent
from django.db import connections
from django.db.backends.signals import connection_created


def _connected(**known: Any) -> None:
    gevent.getcurrent().used_database = True


connection_created.connect(_connected, dispatch_uid="thyme.deliveries")


def used_database(greenlet: Any) -> bool:
    """Whether a greenlet may hold an open database connection.

    Most handlers of most consumers use none, and asking Django for those of a greenlet costs some
    microseconds; that one was opened Django says itself.
    """
    return getattr(greenlet, "used_database", False)


def close_old_connections() -> None:
    """Django's, for a greenlet: as before and after each request."""
    greenlet = gevent.getcurrent()
    if used_database(greenlet):
        known = connections.all(initialized_only=True)
        for connection in known:
            connection.close_if_unusable_or_obsolete()
        if not any(connection.connection is not None for connection in known):
            greenlet.used_database = False
