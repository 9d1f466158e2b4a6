"""A cache of one head per connection: a browser's next request mostly has the same header fields.

`protocol/http11.py` stores the fields of a request here, byte for byte, after llhttp and the rules
have accepted them, provided that they announce no body. If the next request of the connection has
exactly the same bytes behind its first line, only that line is parsed, and only if it has the usual
form; everything else takes the normal way. So the cache can only repeat a decision that was made
for the same bytes.

So there are two ways through the parser. The bench cases `raw-page` and `page` pay for that: they
repeat requests, as browsers and health checks do.

Sources: RFC 9112 3 (request line). Read next: `protocol/http11.py`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from thyme.protocol.http import Header

CACHED_LINES: Final = 1024
"""Distinct request lines that are parsed once only; a site has some dozens of frequent ones."""

LINE_BYTES: Final = 256
"""Longer request lines are not cached, so that the memory of the cache is bounded."""

# RFC 9112 3: request-line = method SP request-target SP HTTP-version; the target here in
# origin-form (3.2.1), of RFC 3986's characters.
_USUAL_LINE = re.compile(rb"(GET|HEAD) (/[A-Za-z0-9\-._~%!$&'()*+,;=:@/?]*) HTTP/1\.1")


class HeadCache:
    """The header fields of the last request of one connection.

    `limit`: bytes of a whole head that is looked up; longer ones are the parser's to refuse.
    """

    __slots__ = ("_fields", "_headers", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fields: bytes | None = None
        self._headers: list[Header] = []

    def store(self, data: bytes, headers: list[Header]) -> None:
        """Store what follows the first line of `data`, a head that was parsed to `headers`."""
        line, _, fields = data.partition(b"\r\n")
        if len(line) <= LINE_BYTES and _parse_line(line) is not None:
            self._fields, self._headers = fields, headers.copy()

    def lookup(self, data: bytes) -> tuple[str, bytes, bytes, list[Header]] | None:
        """Return method, path, query and headers if `data` is one head with the stored fields."""
        line, _, fields = data.partition(b"\r\n")
        if fields != self._fields or len(line) > LINE_BYTES or len(data) > self._limit:
            return None
        parsed = _parse_line(line)
        return None if parsed is None else (*parsed, self._headers.copy())


@lru_cache(CACHED_LINES)
def _parse_line(line: bytes) -> tuple[str, bytes, bytes] | None:
    """Return method, path and query of a request line of the usual form."""
    match = _USUAL_LINE.fullmatch(line)
    if match is None:
        return None
    path, _, query = match[2].partition(b"?")
    return str(match[1], "ascii"), path, query
