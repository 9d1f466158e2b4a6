"""Django's PostgreSQL for greenlets, with a pool that keeps its bound.

django-db-geventpool does the pooling, but it counts a connection only once it is open: forty
greenlets that start at once open forty, whatever MAX_CONNS says. And a connection that died is
never given back, so those that wait for one may wait for ever. Here a greenlet takes a turn
before it takes or opens a connection, and gives the turn back whatever became of that.
Taught in notebooks/10_psycogreen.ipynb.
"""

from select import POLLIN
from typing import Any

import psycopg2
from django_db_geventpool.backends.postgresql_psycopg2 import base
from gevent import monkey
from gevent.lock import BoundedSemaphore
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

poll = monkey.get_original("select", "poll")  # looks without waiting, so it need not yield


class TurnPool(base.PostgresConnectionPool):
    """At most MAX_CONNS connections, those being opened included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.turns = BoundedSemaphore(self.maxsize)

    def get(self) -> Any:
        """A connection that works; waits for a turn. Raises psycopg2.Error."""
        self.turns.acquire()
        try:
            return self.take_idle() or self.create_connection()
        except BaseException:
            self.turns.release()
            raise

    def take_idle(self) -> Any:
        while self.pool.qsize():
            connection = self.pool.get_nowait()
            if not self.has_ended(connection):
                return connection
            connection.close()
        return None

    @staticmethod
    def has_ended(connection: Any) -> bool:
        """Whether the server has ended an idle connection: it says so, or hangs up.

        Nothing else makes it readable. The library asks "SELECT 1" instead, a round trip each.
        """
        if connection.closed:
            return True
        look = poll()
        look.register(connection.fileno(), POLLIN)
        return bool(look.poll(0))

    def put(self, connection: Any) -> None:
        """Give back what get() gave, alive or dead."""
        if not connection.closed:
            super().put(connection)
        self.turns.release()


class DatabaseWrapper(base.DatabaseWrapper):
    pool_class = TurnPool

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
