"""Locations: the address and options of a server, read from a URL.

    redis://user:password@host:port/0     rediss://… (TLS)     unix:///path?db=0
    sentinel://host:port,host:port/name   the current master of the group called `name`
    tcp://host:port                       our own hub, `python -m gredis`

Redis URLs are parsed by redis-py, with its names for query options: TLS (`ssl_ca_certs`,
`ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`, `ssl_check_hostname`) and `client_name`, which
CLIENT LIST shows. Sentinel URLs take the same query, user and password, which are those of the
Redis they lead to, and `tls=1`.

This file opens nothing; drivers do. Read next: `session.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from redis.connection import parse_url

from gredis.errors import GredisError

SENTINEL_PORT = 26379
REDIS_PORT = 6379
HUB_PORT = 6380
"""Default port of `python -m gredis`, next to that of Redis."""


@dataclass(frozen=True)
class Location:
    """A server to connect to.

    `path` is that of a Unix socket. `tls` holds options named as in redis-py, or None without TLS.
    `display_url` is the URL without its password, for logs and errors.
    """

    scheme: str
    host: str = "localhost"
    port: int = REDIS_PORT
    path: str = ""
    username: str | None = None
    password: str | None = None
    database: int = 0
    client_name: str | None = None
    tls: dict[str, Any] | None = None
    sentinels: tuple[tuple[str, int], ...] = ()
    master: str = ""
    display_url: str = ""

    def with_address(self, host: str, port: int) -> Location:
        """Return the same Redis at another address."""
        return replace(self, scheme="redis", host=host, port=port, sentinels=())


def locate(url: str) -> Location:
    """Return the location that `url` names. Raises `GredisError` if it is not a valid URL."""
    parts = urlsplit(url)
    if parts.scheme == "tcp":
        host, port = parts.hostname or "localhost", parts.port or HUB_PORT
        return Location("tcp", host, port, display_url=url)
    if parts.scheme == "sentinel":
        return _sentinel(url)
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise GredisError(
            f"got {redact_url(url)!r}, expected the URL of a Redis or of a hub"
        ) from error
    return _location(parts.scheme, options, redact_url(url))


def _location(scheme: str, options: dict[str, Any], display_url: str) -> Location:
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return Location(
        scheme,
        options.get("host", "localhost"),
        options.get("port", REDIS_PORT),
        options.get("path", ""),
        options.get("username"),
        options.get("password"),
        int(options.get("db") or 0),
        options.get("client_name"),
        tls if scheme == "rediss" else None,
        display_url=display_url,
    )


def _sentinel(url: str) -> Location:
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    master, _, database = parts.path.strip("/").partition("/")
    if not master:
        raise GredisError(
            f"got {redact_url(url)!r}, expected sentinel://host:port,…/name-of-master"
        )
    scheme = "rediss" if "tls=1" in parts.query else "redis"
    login = f"{login}@" if login else ""
    redis_url = f"{scheme}://{login}master/{database or 0}?{parts.query}"
    options = parse_url(redis_url)  # type: ignore[no-untyped-call]
    sentinels = []
    for each in hosts.split(","):
        host, _, port = each.partition(":")
        sentinels.append((host, int(port or SENTINEL_PORT)))
    found = _location(scheme, options, redact_url(url))
    return replace(found, scheme="sentinel", sentinels=tuple(sentinels), master=master)


def redact_url(url: str) -> str:
    """Return `url` without user and password, for logs and errors."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url
