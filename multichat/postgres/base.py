"""Django's PostgreSQL backend for greenlets, with a connection pool of bounded size.

django-db-geventpool counts a connection only when it is open, so 40 greenlets that start at once
open 40 connections, whatever MAX_CONNS is; and a connection that died is never returned, so
greenlets may wait for one forever. Here a greenlet acquires a slot before it takes or opens a
connection, and releases the slot whatever happens to the connection.

Taught in notebooks/10_psycogreen.ipynb.
"""

from select import POLLIN
from typing import Any

import psycopg2
from django_db_geventpool.backends.postgresql_psycopg2 import base
from gevent import monkey
from gevent.lock import BoundedSemaphore
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

poll = monkey.get_original("select", "poll")  # never blocks here, so it need not yield


class BoundedPool(base.PostgresConnectionPool):
    """At most MAX_CONNS connections, including those that are being opened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = BoundedSemaphore(self.maxsize)

    def get(self) -> Any:
        """Return a connection that works; wait for a slot. Raises psycopg2.Error."""
        self.slots.acquire()
        try:
            return self.get_idle() or self.create_connection()
        except BaseException:
            self.slots.release()
            raise

    def get_idle(self) -> Any:
        """Return an idle connection that is open, or None."""
        while self.pool.qsize():
            connection = self.pool.get_nowait()
            if not self.has_ended(connection):
                return connection
            connection.close()
        return None

    @staticmethod
    def has_ended(connection: Any) -> bool:
        """Return True if the server has closed an idle connection.

        Only a message about that, or the end of the stream, makes an idle connection readable. The
        library sends "SELECT 1" instead, which costs a round trip.
        """
        if connection.closed:
            return True
        poller = poll()
        poller.register(connection.fileno(), POLLIN)
        return bool(poller.poll(0))

    def put(self, connection: Any) -> None:
        """Return a connection of `get()`, open or closed."""
        if not connection.closed:
            super().put(connection)
        self.slots.release()


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's connection, whose `close()` returns it to the pool."""

    pool_class = BoundedPool

    def _close(self) -> None:
        connection, self.connection = self.connection, None
        try:
            if not connection.closed:
                if connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
                    connection.rollback()
                connection.autocommit = True
        except psycopg2.Error:
            connection.close()
        finally:
            self.pool.put(connection)
