"""The addresses of Redis and PostgreSQL. This is the one place to change them.

REDIS_URL and DATABASE_URL in the environment take precedence. Without them this checkout's embedded
servers are used, and started if they are not running (`thyme/services/embedded.py`). To use servers
of your own, as the original multichat does, set the two variables or edit the functions:

    createuser -P multichat && createdb multichat -O multichat
    export REDIS_URL=redis://localhost:6379
    export DATABASE_URL=postgresql://multichat:PASSWORD@localhost/multichat

Unix sockets work, too: unix:///run/redis.sock, postgresql://multichat@/multichat?host=/run
"""

import os
from pathlib import Path

from thyme import services

ROOT = Path(__file__).resolve().parent.parent
"""The checkout; its embedded servers keep their files in `.thyme` there, or in $THYME_STATE."""

DATABASE = ROLE = "multichat"
"""The database in the embedded PostgreSQL, and its owner."""


def state_directory() -> Path:
    """Return the directory for the embedded servers and the secret key."""
    return services.state_directory(ROOT)


def redis_url() -> str:
    """Return the URL of Redis (or Valkey), for redis-py."""
    return os.environ.get("REDIS_URL") or services.redis(state_directory())


def database_url() -> str:
    """Return the URL of PostgreSQL, for dj-database-url."""
    return os.environ.get("DATABASE_URL") or services.postgres(
        state_directory(), database=DATABASE, role=ROLE
    )
