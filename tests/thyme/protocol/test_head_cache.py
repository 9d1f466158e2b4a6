"""The cache of one head: what it finds is what the parser would say of the same bytes."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tests.thyme.protocol.parsing import GET, joined
from thyme.config import Config
from thyme.protocol.head_cache import LINE_BYTES, HeadCache
from thyme.protocol.http import END
from thyme.protocol.http11 import RequestParser

FIELDS_OF_GET = b"Host: a\r\n\r\n"
HEADERS = [(b"host", b"a")]


def stored(limit: int = 1000) -> HeadCache:
    cache = HeadCache(limit)
    cache.store(b"GET /first HTTP/1.1\r\n" + FIELDS_OF_GET, HEADERS)
    return cache


def test_an_empty_cache_finds_nothing() -> None:
    assert HeadCache(1000).lookup(b"GET / HTTP/1.1\r\n" + FIELDS_OF_GET) is None


def test_another_line_with_the_same_fields_is_found() -> None:
    found = stored().lookup(b"HEAD /a%20b?c=d HTTP/1.1\r\n" + FIELDS_OF_GET)
    assert found == ("HEAD", b"/a%20b", b"c=d", HEADERS)


def test_the_fields_must_be_the_same_bytes() -> None:
    assert stored().lookup(b"GET / HTTP/1.1\r\n" + FIELDS_OF_GET.lower()) is None
    assert stored().lookup(b"GET / HTTP/1.1\r\n" + FIELDS_OF_GET + b"G") is None
    assert stored().lookup(b"GET / HTTP/1.1\r\n" + FIELDS_OF_GET[:-1]) is None


def test_lines_of_other_forms_are_left_to_the_parser_rfc_9112_3() -> None:
    for line in (b"POST / HTTP/1.1", b"GET / HTTP/1.0", b"GET  / HTTP/1.1", b"GET /a#b HTTP/1.1",
                 b"GET http://a/ HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET / HTTP/1.1 "):  # fmt: skip
        assert stored().lookup(line + b"\r\n" + FIELDS_OF_GET) is None, line


def test_long_lines_and_long_heads_are_left_to_the_parser() -> None:
    fitting = b"GET /" + b"a" * (LINE_BYTES - len(b"GET / HTTP/1.1")) + b" HTTP/1.1\r\n"
    assert stored().lookup(fitting + FIELDS_OF_GET) is not None
    assert stored().lookup(fitting.replace(b"/", b"/a", 1) + FIELDS_OF_GET) is None
    assert stored(limit=len(fitting)).lookup(fitting + FIELDS_OF_GET) is None


def test_what_is_found_is_a_copy() -> None:
    cache = stored()
    for _ in range(2):
        found = cache.lookup(b"GET / HTTP/1.1\r\n" + FIELDS_OF_GET)
        assert found is not None
        assert found[3] == HEADERS
        found[3].clear()


# In the parser.

# The lines and fields of which requests are made.
LINES = ["GET / HTTP/1.1", "GET /a%20b?c=d HTTP/1.1", "HEAD / HTTP/1.1", "POST / HTTP/1.1",
         "GET /\x7f HTTP/1.1", "GET /a#b HTTP/1.1", "GET http://b.org/ HTTP/1.1",
         "GET / HTTP/1.0", "GET  / HTTP/1.1", "get / HTTP/1.1", "", " ",
         "GET /" + 9000 * "x"]  # fmt: skip


FIELDS = ["Host: a.org", "Host: b.org", "Cookie: c=d", "cookie: c=d ", "Connection: close",
          "Content-Length: 0", "Content-Length: 2", "Upgrade: h2c", "Expect: 100-continue",
          "Transfer-Encoding: chunked", " folded", "no field"]  # fmt: skip


heads = st.builds(
    lambda line, fields: "\r\n".join([line, *fields, "", ""]).encode("latin-1"),
    st.sampled_from(LINES),
    st.lists(st.sampled_from(FIELDS), max_size=2).map(lambda some: ["Host: a.org", *some]),
)


@given(st.lists(heads, min_size=2, max_size=6), st.booleans())
@example([GET, GET, GET + GET, GET], True)
def test_what_was_said_before_changes_nothing_of_what_is_said_now(pieces, taken):
    parser, together = RequestParser(Config()), RequestParser(Config())
    found = []
    for piece in pieces:
        parser.feed(piece)
        if taken:
            found += parser.events
            parser.events.clear()
    together.feed(b"".join(pieces))
    assert joined([*found, *parser.events]) == joined(list(together.events))


def test_a_repeated_request_has_headers_of_its_own():
    parser = RequestParser(Config())
    for _ in range(3):
        parser.feed(GET)
        found = parser.events.popleft()
        assert found.headers == [(b"host", b"example.org")]
        found.headers.clear()
        assert parser.events.popleft() is END
