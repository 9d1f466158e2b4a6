"""Requests that repeat: who asks again on a connection mostly asks with the same header fields.

`protocol/http11.py` has the last fields kept here, byte for byte, which llhttp has read and found
good, if they say nothing about a body. A request that has the very same is not parsed again: only
its first line is read, and only one of the usual form.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from thyme.protocol.head_rules import Header

LINES_REMEMBERED: Final = 1024
"""Distinct request lines that are read once only; a site has some dozens that are asked often."""

LINE_BYTES: Final = 256
"""A longer one is left to the parser: what is remembered must be bounded."""

# RFC 9112 3: request-line = method SP request-target SP HTTP-version; the target here in
# origin-form (3.2.1), of RFC 3986's characters.
_USUAL = re.compile(rb"(GET|HEAD) (/[A-Za-z0-9\-._~%!$&'()*+,;=:@/?]*) HTTP/1\.1")


class HeadCache:
    """The header fields of the last request of one connection; `limit`: bytes in a whole head."""

    __slots__ = ("_fields", "_headers", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fields: bytes | None = None
        self._headers: list[Header] = []

    def remember(self, data: bytes, headers: list[Header]) -> None:
        """Keep what `data` says behind its first line: `headers`, and no body."""
        line, _, fields = data.partition(b"\r\n")
        if len(line) <= LINE_BYTES and _read(line) is not None:
            self._fields, self._headers = fields, headers.copy()

    def read(self, data: bytes) -> tuple[str, bytes, bytes, list[Header]] | None:
        """Method, path, query and headers, if `data` is a request with the fields remembered."""
        line, _, fields = data.partition(b"\r\n")
        if fields != self._fields or len(line) > LINE_BYTES or len(data) > self._limit:
            return None
        known = _read(line)
        return None if known is None else (*known, self._headers.copy())


@lru_cache(LINES_REMEMBERED)
def _read(line: bytes) -> tuple[str, bytes, bytes] | None:
    match = _USUAL.fullmatch(line)
    if match is None:
        return None
    path, _, query = match[2].partition(b"?")
    return str(match[1], "ascii"), path, query
