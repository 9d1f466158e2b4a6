"""Options of the sockets that both drivers open: TCP keepalive, and TLS.

No I/O, and neither gevent nor asyncio: it works on the sockets and classes that it is given.
Read next: `drivers/gevent.py` beside `drivers/asyncio.py`.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from gredis.location import Location

KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds, seconds, probes: the kernel detects within a minute that a silent host is gone."""

CERTIFICATES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


def enable_keepalive(connected: Any) -> None:
    """Turn on TCP keepalive for a socket, with our intervals where the system has them."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def tls_context(location: Location, kind: type[ssl.SSLContext]) -> ssl.SSLContext | None:
    """Return a TLS context for a location, made by the driver's class; None without TLS."""
    options = location.tls
    if options is None:
        return None
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    required = options.get("ssl_cert_reqs", "required")
    context.check_hostname = bool(required != "none" and options.get("ssl_check_hostname", True))
    context.verify_mode = CERTIFICATES[required]
    if "ssl_ca_certs" in options or "ssl_ca_path" in options:
        context.load_verify_locations(options.get("ssl_ca_certs"), options.get("ssl_ca_path"))
    else:
        context.load_default_certs()
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
