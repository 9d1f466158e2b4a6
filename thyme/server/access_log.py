"""The access log: a line for each request and each WebSocket, when it is over.

    common   192.0.2.1 - - [22/Nov/2026:13:56:01 +0000] "GET /rooms HTTP/1.1" 200 512
    json     {"time": …, "client": …, "method": …, "path": …, "status": …, "bytes": …, "seconds": …}

What a request says in confidence is not logged: no query (it can carry tokens), no header (cookies,
Authorization), no user. The path is written as it was sent, percent-encoded, so that no line can
be forged with it. Bytes are those on the wire, head included. What is no good request (400, 408,
414, 431) has no line, nothing in it can be believed; `/metrics` counts it.

The lines go to the logger "thyme.access" (level INFO); programs send it to standard error.
Source of the first form: https://httpd.apache.org/docs/2.4/logs.html#common
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass

from thyme.protocol.http11 import Request
from thyme.protocol.scope import Place, written

FORMATS = ("common", "json")

_LOGGER = logging.getLogger("thyme.access")


@dataclass(slots=True)
class AccessLogRecord:
    """One line: what was asked, by whom, and how it went."""

    place: Place
    request: Request
    status: int
    sent: int
    seconds: float
    ended: float
    """Seconds since the epoch."""


class AccessLog:
    """Writes a line for each `AccessLogRecord`, in one of `FORMATS`."""

    def __init__(self, form: str) -> None:
        if form not in FORMATS:
            raise ValueError(f"got access log {form!r}, expected one of {FORMATS}")
        self._line = common_line if form == "common" else json_line

    def write(self, visit: AccessLogRecord) -> None:
        """Log it."""
        _LOGGER.info(self._line(visit))


def to_standard_error() -> None:
    """Write the lines there, and nothing around them: what a program does, once."""
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(message)s"))
    _LOGGER.addHandler(lines)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False


def common_line(visit: AccessLogRecord) -> str:
    """In the Common Log Format."""
    when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(visit.ended))
    request = visit.request
    return (
        f'{_client(visit) or "-"} - - [{when}] "{request.method} {written(request.path)}'
        f' HTTP/{request.http_version}" {visit.status} {visit.sent}'
    )


def json_line(visit: AccessLogRecord) -> str:
    """As a JSON object."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(visit.ended)),
        "client": _client(visit),
        "method": visit.request.method,
        "path": written(visit.request.path),
        "status": visit.status,
        "bytes": visit.sent,
        "seconds": round(visit.seconds, 6),
        "websocket": visit.request.websocket,
    }
    return json.dumps(line)


def _client(visit: AccessLogRecord) -> str | None:
    return visit.place.client[0] if visit.place.client else None
