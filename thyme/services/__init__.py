"""Embedded Redis and PostgreSQL."""

from thyme.services.embedded import (
    DidNotStart,
    NotInstalled,
    NotPrivate,
    ServiceError,
    postgres,
    redis,
    state_directory,
    stop_unused,
)

__all__ = [
    "DidNotStart",
    "NotInstalled",
    "NotPrivate",
    "ServiceError",
    "postgres",
    "redis",
    "state_directory",
    "stop_unused",
]
