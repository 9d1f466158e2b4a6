"""HTTP requests: bytes in, events out. Each test names the rule it holds."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.thyme.protocol.parsing import GET, HOST, events, joined, refusal, request
from thyme.config import Config
from thyme.protocol.http import END, HTTPEvent, Refusal, Request
from thyme.protocol.http11 import RequestParser


def test_a_request_is_its_head_then_its_end() -> None:
    head = Request("GET", b"/", b"", "1.1", [(b"host", b"example.org")], keep_alive=True)
    assert events(GET) == [head, END]


def test_path_and_query_are_split_and_stay_encoded_rfc_9112_3_2_1() -> None:
    found = request(b"GET /a%20b/c?x=%31&y HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (found.path, found.query) == (b"/a%20b/c", b"x=%31&y")


def test_field_names_are_lowered_and_values_stripped_rfc_9110_5() -> None:
    found = request(b"GET / HTTP/1.1\r\n" + HOST + b"X-A:  \t b c \t \r\nY:\r\nZ: \xe9\r\n\r\n")
    assert found.headers[1:] == [(b"x-a", b"b c"), (b"y", b""), (b"z", b"\xe9")]


def test_a_body_of_known_length_rfc_9112_6_2() -> None:
    found = events(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n" + HOST + b"\r\nhello")
    assert found[1:] == [b"hello", END]


CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n"


def test_chunks_are_unwrapped_and_extensions_ignored_rfc_9112_7_1() -> None:
    found = joined(events(CHUNKED + b'5;a=b;c="d"\r\nhello\r\n6\r\n world\r\n0\r\n\r\n'))
    assert found[1:] == [b"hello world", END]


def test_trailers_are_discarded_and_do_not_become_headers_rfc_9110_6_5() -> None:
    found = events(CHUNKED + b"1\r\nx\r\n0\r\nHost: evil\r\nX-Admin: 1\r\n\r\n" + GET)
    assert found[1:3] == [b"x", END]
    assert found[3:] == events(GET)


def test_pipelined_requests_follow_each_other_rfc_9112_9_3_2() -> None:
    second = b"GET /2 HTTP/1.1\r\n" + HOST + b"\r\n"
    assert events(GET + second) == events(GET) + events(second)


def test_empty_lines_before_a_request_are_skipped_rfc_9112_2_2() -> None:
    assert events(b"\r\n\r\n" + GET) == events(GET)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\n" + HOST, True),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST, False),
        (b"GET / HTTP/1.1\r\nConnection: keep-alive, Close\r\n" + HOST, False),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_persistence_rfc_9112_9_3(head: bytes, expected: bool) -> None:
    assert request(head + b"\r\n").keep_alive is expected


# Request smuggling, RFC 9112 11.2: whatever two readers could frame differently is refused.

SMUGGLING = {
    "CL with TE, 6.3": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "TE with CL, 6.3": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "two CLs, 6.3": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
    "two equal CLs": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
    "a list of CLs": b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n",
    "a signed CL": b"POST / HTTP/1.1\r\nContent-Length: +5\r\n",
    "an empty CL": b"POST / HTTP/1.1\r\nContent-Length:\r\n",
    "a CL beyond 64 bits": b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n",
    "TE in HTTP/1.0, 6.1": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
    "TE twice": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "TE with a vertical tab": b"POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n",
    "obs-fold, 5.2": b"GET / HTTP/1.1\r\nX: a\r\n b\r\n",
    "space before the colon, 5.1": b"GET / HTTP/1.1\r\nX : a\r\n",
    "space before the first field, 2.2": b"GET / HTTP/1.1\r\n X: a\r\n",
    "no field name": b"GET / HTTP/1.1\r\n: a\r\n",
    "bare LF after the request line, 2.2": b"GET / HTTP/1.1\n",
    "bare LF after a field": b"GET / HTTP/1.1\r\nX: a\nY: b\r\n",
    "bare CR in a field, 2.2": b"GET / HTTP/1.1\r\nX: a\rY: b\r\n",
    "NUL in a value, RFC 9110 5.5": b"GET / HTTP/1.1\r\nX: a\0b\r\n",
    "control in a name": b"GET / HTTP/1.1\r\nX\x01: a\r\n",
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_ambiguous_heads_are_400(name: str) -> None:
    assert refusal(SMUGGLING[name] + HOST + b"\r\n" + b"0\r\n\r\n") == 400


BAD_CHUNKS = {
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "beyond 64 bits": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "empty": b"\r\nhello\r\n0\r\n\r\n",
    "space after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "longer than it says": b"5\r\nhello!\r\n0\r\n\r\n",
    "framing in a trailer": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunks_are_400_rfc_9112_7_1(name: str) -> None:
    assert refusal(CHUNKED + BAD_CHUNKS[name]) == 400


def test_nothing_is_read_after_a_refusal() -> None:
    assert len(events(b"GET * HTTP/1.1\r\n\r\n", GET, GET)) == 1


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"GET\t/ HTTP/1.1\r\n\r\n", b"get /"])
def test_what_is_not_http_is_400(data: bytes) -> None:
    assert refusal(data) == 400


# Upgrades.

UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


def test_a_websocket_request_ends_http_and_keeps_what_follows_rfc_6455_4_2() -> None:
    parser = RequestParser(Config())
    parser.feed(b"GET /s HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n\x81\x80abcd")
    (found,) = parser.events
    assert isinstance(found, Request)
    assert found.websocket
    assert parser.leftover == b"\x81\x80abcd"


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\n" + HOST + UPGRADE,  # RFC 6455 4.1: GET
        b"GET / HTTP/1.0\r\n" + HOST + UPGRADE,  # RFC 9110 7.8: ignored in HTTP/1.0
        b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\n",
    ],
)
def test_other_upgrades_are_ignored_rfc_9110_7_8(head: bytes) -> None:
    first, *rest = events(head + b"\r\n")
    assert isinstance(first, Request)
    assert not first.websocket
    assert rest == [END]


@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
)
def test_the_body_of_an_ignored_upgrade_is_read_rfc_9110_7_8(body: bytes) -> None:
    head = (
        b"POST / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    )
    assert events(head + body + GET)[1:] == [b"abc", END, *events(GET)]


# Limits.


def test_a_long_target_is_414_rfc_9112_3() -> None:
    small = Config(target_bytes=20)
    assert refusal(b"GET /" + b"a" * 20 + b" HTTP/1.1\r\n" + HOST + b"\r\n", small) == 414
    assert len(events(b"GET /" + b"a" * 19 + b" HTTP/1.1\r\n" + HOST + b"\r\n", config=small)) == 2


def test_a_head_that_never_ends_is_431_before_it_fills_the_memory() -> None:
    parser = RequestParser(Config())
    parser.feed(b"GET / HTTP/1.1\r\nX: ")
    for _ in range(3):
        parser.feed(b"a" * 40_000)
    assert list(parser.events) == [
        Refusal(431, "the head exceeds 65536 bytes or 100 header fields")
    ]


def test_a_chunked_body_over_the_limit_is_413() -> None:
    body = b"6\r\n123456\r\n6\r\n123456\r\n0\r\n\r\n"
    found = events(CHUNKED + body, config=Config(body_bytes=10))
    assert found[1:] == [b"123456", Refusal(413, "the request body exceeds 10 bytes")]


@pytest.mark.parametrize("start", [b"1;", b"0\r\nX: "])
def test_endless_chunk_extensions_and_trailers_are_refused(start: bytes) -> None:
    parser = RequestParser(Config())
    parser.feed(CHUNKED + start)
    for _ in range(20):
        parser.feed(b"a" * 1000)
    reason = "too many bytes between two pieces of the body"
    assert parser.events[-1] == Refusal(400, reason)


# Properties.

tokens = st.text("abcXYZ-_09", min_size=1, max_size=10).map(str.encode)
values = st.text("abc XYZ,;=\t09é", max_size=20).map(lambda text: text.encode("latin-1"))
# Fields with a meaning of their own are added by hand below.
fields = st.lists(st.tuples(tokens.map(lambda token: b"X-" + token), values), max_size=5)
bodies = st.lists(st.binary(min_size=1, max_size=30), max_size=4)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[tuple[bytes, list[tuple[bytes, bytes]], bytes]]]:
    """A valid stream of requests, and what each of them is."""
    stream, meaning = b"", []
    for _ in range(draw(st.integers(1, 3))):
        path = b"/" + draw(tokens)
        extra, pieces, chunked = draw(fields), draw(bodies), draw(st.booleans())
        head = [(b"Host", b"h"), *extra]
        if chunked:
            head.append((b"Transfer-Encoding", b"chunked"))
            content = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            content += b"0\r\n\r\n"
        else:
            content = b"".join(pieces)
            head.append((b"Content-Length", b"%d" % len(content)))
        lines = b"".join(b"%b: %b\r\n" % field for field in head)
        stream += b"POST " + path + b" HTTP/1.1\r\n" + lines + b"\r\n" + content
        stripped = [(name.lower(), value.strip(b" \t")) for name, value in head]
        meaning.append((path, stripped, b"".join(pieces)))
    return stream, meaning


def pieces_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(places)]


@given(streams(), st.lists(st.integers(0, 10_000), max_size=30))
def test_a_stream_means_the_same_wherever_it_is_cut(
    generated: tuple[bytes, list[tuple[bytes, list[tuple[bytes, bytes]], bytes]]], cuts: list[int]
) -> None:
    stream, meaning = generated
    found = joined(events(*pieces_of(stream, cuts)))
    expected: list[HTTPEvent] = []
    for path, headers, body in meaning:
        expected.append(Request("POST", path, b"", "1.1", headers, keep_alive=True))
        expected += [body, END] if body else [END]
    assert found == expected


@pytest.mark.parametrize("stream", [GET, CHUNKED + b"5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n" + GET])
def test_a_stream_means_the_same_byte_by_byte(stream: bytes) -> None:
    single = [stream[i : i + 1] for i in range(len(stream))]
    assert joined(events(*single)) == joined(events(stream))


@given(st.binary(max_size=200), st.lists(st.integers(0, 1000), max_size=5))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0", [])
def test_garbage_gives_events_and_never_an_exception(garbage: bytes, cuts: list[int]) -> None:
    events(*pieces_of(garbage, cuts))
    events(*pieces_of(GET[:-2] + garbage, cuts))
    events(*pieces_of(CHUNKED + garbage, cuts))


@given(streams())
def test_h11_reads_the_same_requests(
    generated: tuple[bytes, list[tuple[bytes, list[tuple[bytes, bytes]], bytes]]],
) -> None:
    """The oracle: an independent implementation, h11."""
    stream, _ = generated
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(stream)
    expected: list[HTTPEvent] = []
    while not isinstance(event := oracle.next_event(), type) or event is h11.PAUSED:
        if event is h11.PAUSED:
            oracle.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            oracle.send(h11.EndOfMessage())
            oracle.start_next_cycle()
        elif isinstance(event, h11.Request):
            headers = [(name, value) for name, value in event.headers]
            expected.append(Request("POST", event.target, b"", "1.1", headers, keep_alive=True))
        elif isinstance(event, h11.Data):
            expected.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            expected.append(END)
    assert joined(events(stream)) == joined(expected)


def test_a_refusal_after_an_upgrade_that_is_ignored_is_a_refusal_rfc_9110_7_8() -> None:
    """Found by fuzz.py: the parser that goes on is inside the first one's exception."""
    ignored = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    parser = RequestParser(Config())
    parser.feed(ignored + b"GET / HTTP/1.1\r\n\r\n")
    refusal = parser.events[-1]
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "got 0 Host header fields, expected one"
