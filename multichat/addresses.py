"""Where Redis and Postgres are. This is the one place to change it.

REDIS_URL and DATABASE_URL in the environment win. Without them the embedded servers of this
checkout are used, and started if need be (`thyme/services/embedded.py`). To do it the way of the
original multichat, with servers of your own, either set the two variables or edit the functions:

    createuser -P multichat && createdb multichat -O multichat
    export REDIS_URL=redis://localhost:6379
    export DATABASE_URL=postgresql://multichat:PASSWORD@localhost/multichat

A Unix socket works for both: unix:///run/redis.sock, postgresql://multichat@/multichat?host=/run
"""

import os


def redis_url() -> str:
    """The URL of Redis (or Valkey), as redis-py reads it."""
    return os.environ.get("REDIS_URL") or _embedded("redis")


def database_url() -> str:
    """The URL of Postgres, as dj-database-url reads it."""
    return os.environ.get("DATABASE_URL") or _embedded("postgres")


def _embedded(service: str) -> str:
    # Imported only when needed, so that with URLs given nothing embedded has to be installed.
    from thyme import services

    return str(getattr(services, service)())
