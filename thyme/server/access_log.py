"""The access log: one line for each request and each WebSocket, when it has ended.

    common   192.0.2.1 - - [22/Nov/2026:13:56:01 +0000] "GET /rooms HTTP/1.1" 200 512
    json     {"time": …, "client": …, "method": …, "path": …, "status": …, "bytes": …, "seconds": …}

Confidential parts of a request are not logged: no query (it may carry tokens), no header (cookies,
Authorization), no user. The path is logged as it was sent, percent-encoded, so that no line can be
forged with it. Bytes are those on the wire, including the head. Malformed requests (400, 408, 414,
431) have no line, because nothing in them can be trusted; `/metrics` counts them.

The lines go to the logger "thyme.access" (level INFO); programs send that to standard error.
What a request was is filled in by `server/connection.py`.
Source of the first format: https://httpd.apache.org/docs/2.4/logs.html#common
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass

from thyme.protocol.http import Request
from thyme.protocol.scope import ConnectionInfo, log_safe_path

FORMATS = ("common", "json")

_LOGGER = logging.getLogger("thyme.access")


@dataclass(slots=True)
class AccessLogRecord:
    """The facts of one line. `sent`: bytes; `seconds`: from the head to the end of the response."""

    info: ConnectionInfo
    request: Request
    status: int
    sent: int
    seconds: float
    ended: float
    """Seconds since the epoch."""


class AccessLog:
    """Writes a line for each `AccessLogRecord`, in one of `FORMATS`. Raises `ValueError`."""

    def __init__(self, form: str) -> None:
        if form not in FORMATS:
            raise ValueError(f"got access log format {form!r}, expected one of {FORMATS}")
        self._line = common_line if form == "common" else json_line

    def write(self, record: AccessLogRecord) -> None:
        """Log `record`."""
        _LOGGER.info(self._line(record))


def to_standard_error() -> None:
    """Write the bare lines to standard error. For programs, which call it once."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False


def common_line(record: AccessLogRecord) -> str:
    """Return `record` in the Common Log Format."""
    when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(record.ended))
    request = record.request
    client = _client_address(record) or "-"
    return (
        f'{client} - - [{when}] "{request.method} {log_safe_path(request.path)}'
        f' HTTP/{request.http_version}" {record.status} {record.sent}'
    )


def json_line(record: AccessLogRecord) -> str:
    """Return `record` as a JSON object."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.ended)),
        "client": _client_address(record),
        "method": record.request.method,
        "path": log_safe_path(record.request.path),
        "status": record.status,
        "bytes": record.sent,
        "seconds": round(record.seconds, 6),
        "websocket": record.request.websocket,
    }
    return json.dumps(line)


def _client_address(record: AccessLogRecord) -> str | None:
    return record.info.client[0] if record.info.client else None
