"""HTTP responses: ASGI events in, bytes out. h11 reads them back. Each test names its rule."""

from __future__ import annotations

import re
import time
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thyme.errors import ApplicationError
from thyme.protocol import response as module
from thyme.protocol.http import Refusal
from thyme.protocol.response import Response, refusal_response

Headers = list[tuple[bytes, bytes]]


def start(status: int = 200, headers: Headers | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers or [], **more}


def body(content: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def encoded(
    *events: dict[str, Any], method: str = "GET", version: str = "1.1", keep_alive: bool = True
) -> tuple[Response, bytes]:
    response = Response(method, version, keep_alive, "thyme")
    return response, b"".join([response.encode(event) for event in events])


def head_of(data: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    status, *lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return status, dict(line.split(b": ", 1) for line in lines)  # type: ignore[arg-type]


def content_of(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[2]


def read_back(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes, Headers]:
    """What h11's client reads: the head, the body, the trailers."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    content = b""
    while isinstance(event := client.next_event(), h11.Data):
        content += event.data
    if event is h11.NEED_DATA:
        client.receive_data(b"")
        event = client.next_event()
    assert isinstance(event, h11.EndOfMessage)
    return head, content, list(event.headers)


def test_a_short_answer_is_one_piece_with_its_length_rfc_9110_8_6() -> None:
    response = Response("GET", "1.1", True)
    assert response.encode(start(headers=[(b"x", b"y")])) == b""
    status, fields = head_of(data := response.encode(body(b"hello")))
    assert status == b"HTTP/1.1 200 OK"
    assert fields.keys() == {b"x", b"content-length", b"date"}
    assert (fields[b"content-length"], content_of(data)) == (b"5", b"hello")
    assert response.complete
    assert response.keep_alive


def test_a_body_in_pieces_is_chunked_rfc_9112_7_1() -> None:
    _, data = encoded(start(), body(b"hello", True), body(b"", True), body(b" you"))
    assert content_of(data) == b"5\r\nhello\r\n4\r\n you\r\n0\r\n\r\n"
    assert read_back(data)[1] == b"hello you"


def test_a_body_in_pieces_to_http_1_0_ends_with_the_connection_rfc_9112_6_1() -> None:
    response, data = encoded(start(), body(b"a", True), body(b"b"), version="1.0")
    assert content_of(data) == b"ab"
    assert b"transfer-encoding" not in head_of(data)[1]
    assert not response.keep_alive


def test_keep_alive_to_http_1_0_is_said_rfc_9112_9_3() -> None:
    _, data = encoded(start(), body(b"a"), version="1.0", keep_alive=True)
    assert head_of(data)[1][b"connection"] == b"keep-alive"


def test_a_given_length_is_kept() -> None:
    _, data = encoded(start(headers=[(b"Content-Length", b"5")]), body(b"he", True), body(b"llo"))
    assert head_of(data)[1][b"content-length"] == b"5"
    assert content_of(data) == b"hello"


@pytest.mark.parametrize("pieces", [[b"hello!"], [b"hell"], [b"he", b"llo!"], [b"he", b"l"]])
def test_a_body_that_is_not_of_its_length_is_an_error_rfc_9112_6_3(pieces: list[bytes]) -> None:
    events = [body(piece, True) for piece in pieces[:-1]] + [body(pieces[-1])]
    with pytest.raises(ApplicationError, match="content-length"):
        encoded(start(headers=[(b"content-length", b"5")]), *events)


def test_an_error_in_the_only_piece_leaves_room_for_a_500() -> None:
    response = Response("GET", "1.1", True)
    response.encode(start(headers=[(b"content-length", b"5")]))
    with pytest.raises(ApplicationError):
        response.encode(body(b"hello!"))
    assert not response.begun


def test_head_has_the_fields_and_no_content_rfc_9110_9_3_2() -> None:
    length = [(b"content-length", b"5")]
    response, data = encoded(start(headers=length), body(b"hello"), method="HEAD")
    assert head_of(data)[1][b"content-length"] == b"5"
    assert content_of(data) == b""
    assert response.keep_alive
    assert read_back(data, "HEAD")[1] == b""


@pytest.mark.parametrize(("status", "length"), [(204, None), (205, b"0"), (304, b"5")])
def test_204_205_and_304_have_no_content_rfc_9110_15(status: int, length: bytes | None) -> None:
    _, data = encoded(start(status, [(b"content-length", b"5")]), body(b"hello"))
    assert head_of(data)[1].get(b"content-length") == length
    assert content_of(data) == b""


def test_the_connection_is_said_to_close_rfc_9112_9_6() -> None:
    _, data = encoded(start(), body(), keep_alive=False)
    assert head_of(data)[1][b"connection"] == b"close"


def test_the_application_may_ask_to_close() -> None:
    response, data = encoded(start(headers=[(b"Connection", b"x, Close")]), body())
    assert head_of(data)[1][b"connection"] == b"close"
    assert not response.keep_alive


def test_transfer_encoding_of_the_application_is_dropped_rfc_9112_6_1() -> None:
    _, data = encoded(start(headers=[(b"transfer-encoding", b"gzip")]), body(b"a", True), body())
    assert data.count(b"transfer-encoding") == 1
    assert head_of(data)[1][b"transfer-encoding"] == b"chunked"


def test_date_and_server_are_added_unless_given_rfc_9110_6_6_1() -> None:
    _, fields = head_of(encoded(start(), body())[1])
    assert re.fullmatch(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", fields[b"date"])
    assert fields[b"server"] == b"thyme"
    own = [(b"Date", b"then"), (b"Server", b"me")]
    _, data = encoded(start(headers=own), body())
    assert (data.count(b"date:"), data.count(b"server:")) == (1, 1)
    assert head_of(data)[1][b"date"] == b"then"


def test_the_date_is_made_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 784111777.9)
    _, fields = head_of(encoded(start(), body())[1])
    assert fields[b"date"] == b"Sun, 06 Nov 1994 08:49:37 GMT"  # RFC 9110 5.6.7's example
    before = module._last_lines.cache_info().misses
    encoded(start(), body())
    assert module._last_lines.cache_info().misses == before


def test_repeated_fields_stay_apart_and_in_order_rfc_9110_5_3() -> None:
    cookies = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    head, _, _ = read_back(encoded(start(headers=cookies), body())[1])
    assert [value for name, value in head.headers if name == b"set-cookie"] == [b"a=1", b"b=2"]


def test_trailers_follow_the_last_chunk_rfc_9112_7_1_2() -> None:
    response, data = encoded(
        start(trailers=True),
        body(b"hello"),
        {"type": "http.response.trailers", "headers": [(b"X-A", b"1")], "more_trailers": True},
        {"type": "http.response.trailers", "headers": [(b"x-b", b"2")]},
    )
    assert response.complete
    assert read_back(data)[1:] == (b"hello", [(b"x-a", b"1"), (b"x-b", b"2")])


def test_trailers_have_no_place_in_a_body_of_known_length_rfc_9110_6_5() -> None:
    trailers = {"type": "http.response.trailers", "headers": [(b"x-a", b"1")]}
    length = [(b"content-length", b"1")]
    response, data = encoded(start(headers=length, trailers=True), body(b"a"), trailers)
    assert content_of(data) == b"a"
    assert response.complete


def test_trailers_cannot_frame_rfc_9110_6_5_1() -> None:
    trailers = {"type": "http.response.trailers", "headers": [(b"content-length", b"1")]}
    with pytest.raises(ApplicationError, match="cannot be a trailer"):
        encoded(start(trailers=True), body(), trailers)


BAD_HEADERS: dict[str, list[Any]] = {
    "LF in a value": [(b"x", b"a\nb: c")],
    "CR in a value": [(b"x", b"a\rb")],
    "NUL in a value": [(b"x", b"a\0b")],
    "CRLF in a value": [(b"x", b"a\r\nset-cookie: b")],
    "CRLF in the date": [(b"date", b"a\r\nb: c")],
    "space in a name": [(b"x y", b"a")],
    "colon in a name": [(b"x: y", b"a")],
    "no name": [(b"", b"a")],
    "str as name": [("x", b"a")],
    "str as value": [(b"x", "a")],
    "None as value": [(b"x", None)],
    "int": [(b"x", 1)],
    "no pair": [b"x"],
    "no list": 5,
    "two lengths": [(b"content-length", b"1"), (b"content-length", b"1")],
    "signed length": [(b"content-length", b"+1")],
    "empty length": [(b"content-length", b"")],
}


def test_the_error_about_a_dangerous_value_does_not_repeat_it() -> None:
    """It goes to the log, and the value may be a cookie, or what came in a request."""
    headers = [(b"set-cookie", b"session=secret\r\nx: y")]
    with pytest.raises(ApplicationError, match="set-cookie") as caught:
        encoded({"type": "http.response.start", "status": 200, "headers": headers})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_would_smuggle_are_an_error_rfc_9110_5_5(name: str) -> None:
    with pytest.raises(ApplicationError):
        encoded({"type": "http.response.start", "status": 200, "headers": BAD_HEADERS[name]})


@pytest.mark.parametrize("status", [100, 199, 1000, 0, -1, "200", 200.0, None])
def test_a_status_is_three_digits_and_final_rfc_9110_15(status: Any) -> None:
    with pytest.raises(ApplicationError, match="status"):
        encoded(start(status))


def test_a_status_without_a_name_has_an_empty_phrase_rfc_9112_4() -> None:
    assert head_of(encoded(start(299), body())[1])[0] == b"HTTP/1.1 299 "


@pytest.mark.parametrize(
    "events",
    [
        [body()],
        [start(), start()],
        [start(), body(), body()],
        [start(), body(), start()],
        [start(), {"type": "http.response.trailers"}],
        [{"type": "websocket.send"}],
        [{"type": "nonsense"}],
    ],
)
def test_events_in_the_wrong_order_say_what_was_expected(events: list[dict[str, Any]]) -> None:
    with pytest.raises(ApplicationError, match=r"got '.*', expected '.*'"):
        encoded(*events)


def test_a_body_is_bytes() -> None:
    with pytest.raises(ApplicationError, match="str"):
        encoded(start(), {"type": "http.response.body", "body": "hello"})


@pytest.mark.parametrize("content", [bytearray(b"ab"), memoryview(b"ab")])
@pytest.mark.parametrize("more", [False, True])
def test_a_body_may_be_any_kind_of_bytes(content: Any, more: bool) -> None:
    events = [body(content, True), body()] if more else [body(content)]
    assert read_back(encoded(start(), *events)[1])[1] == b"ab"


def test_a_refusal_is_a_whole_response_that_closes() -> None:
    data = refusal_response(Refusal(431, "the head is over 10 bytes", ((b"x", b"y"),)), "thyme")
    head, content, _ = read_back(data)
    assert head.status_code == 431
    assert content == b"431 Request Header Fields Too Large: the head is over 10 bytes\n"
    assert {(b"connection", b"close"), (b"x", b"y")} <= set(head.headers)


@given(
    st.lists(st.binary(max_size=20), max_size=4),
    st.binary(max_size=20),
    st.sampled_from([200, 204, 205, 304, 404]),
    st.sampled_from(["GET", "HEAD", "POST"]),
    st.sampled_from(["1.0", "1.1"]),
)
def test_h11_reads_back_any_body(
    pieces: list[bytes], last: bytes, status: int, method: str, version: str
) -> None:
    events = [start(status), *[body(piece, True) for piece in pieces], body(last)]
    response, data = encoded(*events, method=method, version=version)
    head, content, _ = read_back(data, method)
    without = method == "HEAD" or status in (204, 205, 304)
    assert response.complete
    assert head.status_code == status
    assert content == (b"" if without else b"".join([*pieces, last]))
