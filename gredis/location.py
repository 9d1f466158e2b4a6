"""Locations: where the other side of the wire is, read from a URL.

    redis://user:password@host:port/0     rediss://… (TLS)     unix:///path?db=0
    sentinel://host:port,host:port/name   whoever is the master called `name` at the moment
    tcp://host:port                       our own hub, `python -m gredis`

Redis URLs are read by redis-py, with its names for the options of TLS (`ssl_ca_certs`,
`ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`, `ssl_check_hostname`) and of `client_name`, which
CLIENT LIST shows, in the query. Sentinels take the same query, user and password as the Redis they
lead to, and `tls=1`.

This file opens nothing: drivers do. Read next: `session.py`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from redis.connection import parse_url

from gredis.errors import GredisError

SENTINEL_PORT = 26379
REDIS_PORT = 6379
HUB_PORT = 6380
"""Where `python -m gredis` listens unless told otherwise: beside Redis."""

KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds, seconds, probes: the kernel finds out within a minute that a silent host is gone."""

CERTIFICATES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


@dataclass(frozen=True)
class Location:
    """One place to connect to. `path` is a Unix socket's; `tls` are options as redis-py's."""

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

    def at(self, host: str, port: int) -> Location:
        """The same Redis at another address."""
        return replace(self, scheme="redis", host=host, port=port, sentinels=())

    def context(self, kind: type[ssl.SSLContext]) -> ssl.SSLContext | None:
        """What TLS needs, made with the driver's kind of `SSLContext`; None without TLS."""
        if self.tls is None:
            return None
        context = kind(ssl.PROTOCOL_TLS_CLIENT)
        wanted = self.tls.get("ssl_cert_reqs", "required")
        checked = wanted != "none" and self.tls.get("ssl_check_hostname", True)
        context.check_hostname = bool(checked)
        context.verify_mode = CERTIFICATES[wanted]
        if "ssl_ca_certs" in self.tls or "ssl_ca_path" in self.tls:
            context.load_verify_locations(self.tls.get("ssl_ca_certs"), self.tls.get("ssl_ca_path"))
        else:
            context.load_default_certs()
        if "ssl_certfile" in self.tls:
            context.load_cert_chain(self.tls["ssl_certfile"], self.tls.get("ssl_keyfile"))
        return context


def locate(url: str) -> Location:
    """The location that `url` names; raises `GredisError` when it names none."""
    parts = urlsplit(url)
    if parts.scheme == "tcp":
        return Location(
            "tcp", parts.hostname or "localhost", parts.port or HUB_PORT, display_url=url
        )
    if parts.scheme == "sentinel":
        return _sentinel(url)
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise GredisError(
            f"got {redact_url(url)!r}, expected a URL of Redis or of a hub"
        ) from error
    return _location(parts.scheme, options, redact_url(url))


def _location(scheme: str, options: dict[str, Any], text: str) -> Location:
    encrypted = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return Location(
        scheme,
        options.get("host", "localhost"),
        options.get("port", REDIS_PORT),
        options.get("path", ""),
        options.get("username"),
        options.get("password"),
        int(options.get("db") or 0),
        options.get("client_name"),
        encrypted if scheme == "rediss" else None,
        display_url=text,
    )


def _sentinel(url: str) -> Location:
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    database = parts.path.strip("/").partition("/")
    if not database[0]:
        raise GredisError(
            f"got {redact_url(url)!r}, expected sentinel://host:port,…/name-of-master"
        )
    scheme = "rediss" if "tls=1" in parts.query else "redis"
    login = f"{login}@" if login else ""
    like = f"{scheme}://{login}master/{database[2] or 0}?{parts.query}"
    options = parse_url(like)  # type: ignore[no-untyped-call]
    sentinels = []
    for each in hosts.split(","):
        host, _, port = each.partition(":")
        sentinels.append((host, int(port or SENTINEL_PORT)))
    found = _location(scheme, options, redact_url(url))
    return replace(found, scheme="sentinel", sentinels=tuple(sentinels), master=database[0])


def redact_url(url: str) -> str:
    """A URL without its password, for messages."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url
