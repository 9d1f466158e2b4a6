"""WebSocket: bytes in and ASGI events out, and back. The peer is `websockets`' own client.

Each test names its section of RFC 6455, or ASGI.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from thyme.config import Config
from thyme.errors import ApplicationError
from thyme.protocol.http import Request
from thyme.protocol.http11 import RequestParser
from thyme.protocol.websocket import WebSocket

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
UPGRADE = b"Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"


def opened(fields: bytes = KEY + VERSION, config: Config | None = None) -> WebSocket:
    parser = RequestParser(Config())
    parser.feed(b"GET / HTTP/1.1\r\n" + UPGRADE + fields + b"\r\n")
    request = parser.events[0]
    assert isinstance(request, Request)
    assert request.websocket
    return WebSocket(request, config or Config())


def all_events(websocket: WebSocket) -> list[dict[str, Any]]:
    """As an application takes them: one after the other, until nothing is left to be read."""
    found = list(websocket.events)
    while websocket.has_more:
        websocket.events.clear()
        websocket.receive_data(b"")
        found += websocket.events
    return found


class Pair:
    """Our side and a client's, with bytes carried between them."""

    def __init__(self, config: Config | None = None, **client: Any) -> None:
        self.client = ClientProtocol(parse_uri("ws://a/"), **client)
        self.client.send_request(self.client.connect())
        parser = RequestParser(Config())
        parser.feed(b"".join(self.client.data_to_send()))
        request = parser.events[0]
        assert isinstance(request, Request)
        self.server = WebSocket(request, config or Config())

    def accept(self, **event: Any) -> Pair:
        self.server.accept({"type": "websocket.accept", **event})
        self.to_client()
        if self.client.handshake_exc is not None:
            raise self.client.handshake_exc
        return self

    def to_client(self) -> list[Any]:
        self.client.receive_data(self.server.data_to_send())
        return [event for event in self.client.events_received() if isinstance(event, Frame)]

    def to_server(self) -> list[dict[str, Any]]:
        self.server.receive_data(b"".join(self.client.data_to_send()))
        return self.events()

    def events(self) -> list[dict[str, Any]]:
        found = all_events(self.server)
        self.server.events.clear()
        return found


def text(content: str) -> dict[str, Any]:
    return {"type": "websocket.receive", "bytes": None, "text": content}


def binary(content: bytes) -> dict[str, Any]:
    return {"type": "websocket.receive", "bytes": content, "text": None}


def disconnect(code: int, reason: str = "") -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


# The handshake.


def test_the_accept_key_is_the_one_of_rfc_6455_1_3() -> None:
    server = opened()
    server.accept({"type": "websocket.accept"})
    answer = server.data_to_send()
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer


BAD_HANDSHAKES = {
    "no key": VERSION,
    "an empty key": b"Sec-WebSocket-Key:\r\n" + VERSION,
    "a short key": b"Sec-WebSocket-Key: YWJj\r\n" + VERSION,
    "no base64": b"Sec-WebSocket-Key: ????????????????????????\r\n" + VERSION,
    "two keys": KEY + KEY + VERSION,
    "no version": KEY,
    "two versions": KEY + VERSION + VERSION,
}


@pytest.mark.parametrize("name", BAD_HANDSHAKES)
def test_bad_handshakes_are_400_rfc_6455_4_2_1(name: str) -> None:
    refusal = opened(BAD_HANDSHAKES[name]).refusal
    assert refusal is not None
    assert refusal.status == 400


def test_another_version_is_426_rfc_6455_4_4() -> None:
    refusal = opened(KEY + b"Sec-WebSocket-Version: 8\r\n").refusal
    assert refusal is not None
    assert refusal.status == 426


def test_a_good_handshake_is_not_refused_and_waits_for_the_application() -> None:
    server = opened()
    assert server.refusal is None
    assert server.opening
    assert server.data_to_send() == b""


def test_the_application_chooses_the_subprotocol_rfc_6455_4_2_2() -> None:
    pair = Pair(subprotocols=["a", "b"]).accept(subprotocol="b")
    assert pair.client.subprotocol == "b"


def test_the_application_may_choose_no_subprotocol() -> None:
    assert Pair(subprotocols=["a", "b"]).accept().client.subprotocol is None


def test_headers_on_accept_are_sent() -> None:
    server = opened()
    server.accept({"headers": [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]})
    answer = server.data_to_send()
    assert b"set-cookie: a=1\r\n" in answer
    assert b"set-cookie: b=2\r\n" in answer


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nb: c"),
        (b"x y", b"a"),
        (b"Sec-WebSocket-Protocol", b"a"),
        (b"sec-websocket-accept", b"a"),
        (b"upgrade", b"h2c"),
    ],
)
def test_headers_that_are_not_the_applications_are_an_error(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ApplicationError):
        opened().accept({"headers": [header]})


def test_a_subprotocol_cannot_smuggle() -> None:
    with pytest.raises(ApplicationError):
        opened().accept({"subprotocol": "a\r\nb: c"})


def test_a_second_accept_is_an_error() -> None:
    with pytest.raises(ApplicationError, match="handshake is over"):
        Pair().accept().accept()


# Messages.


def test_texts_and_bytes_from_the_peer_rfc_6455_5_6() -> None:
    pair = Pair().accept()
    pair.client.send_text("grüß".encode())
    pair.client.send_binary(b"\xff\x00")
    pair.client.send_text(b"")
    assert pair.to_server() == [text("grüß"), binary(b"\xff\x00"), text("")]


def test_texts_and_bytes_to_the_peer_rfc_6455_5_6() -> None:
    pair = Pair().accept()
    pair.server.send({"text": "grüß"})
    pair.server.send({"bytes": b"\xff\x00", "text": None})
    frames = [(frame.opcode, bytes(frame.data)) for frame in pair.to_client()]
    assert frames == [(Opcode.TEXT, "grüß".encode()), (Opcode.BINARY, b"\xff\x00")]


@pytest.mark.parametrize("event", [{}, {"text": None}, {"text": b"a"}, {"bytes": "a"}])
def test_a_message_without_content_is_an_error(event: dict[str, Any]) -> None:
    with pytest.raises(ApplicationError, match=r"websocket\.send"):
        Pair().accept().server.send(event)


def test_fragments_are_one_message_also_inside_a_character_rfc_6455_5_4() -> None:
    pair = Pair().accept()
    content = "grüß".encode()
    pair.client.send_text(content[:3], fin=False)
    pair.client.send_ping(b"between")
    pair.client.send_continuation(content[3:4], fin=False)
    assert pair.to_server() == []
    pair.client.send_continuation(content[4:], fin=True)
    assert pair.to_server() == [text("grüß")]


def test_a_ping_is_answered_with_its_own_data_rfc_6455_5_5_2() -> None:
    pair = Pair().accept()
    pair.client.send_ping(b"abc")
    assert pair.to_server() == []
    (pong,) = pair.to_client()
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"abc")


def test_a_pong_nobody_asked_for_is_ignored_rfc_6455_5_5_3() -> None:
    pair = Pair().accept()
    pair.client.send_pong(b"abc")
    assert pair.to_server() == []
    assert pair.to_client() == []


def test_one_frame_is_one_piece_of_bytes() -> None:
    server = Pair().accept().server
    server.send({"text": "a" * 1000})
    assert len(server.data_to_send()) == 1004


# Failures: the close code that the peer gets, and the application's event.


def failed(pair: Pair, code: int) -> None:
    (event,) = pair.events()
    assert (event["type"], event["code"]) == ("websocket.disconnect", code)
    (frame,) = pair.to_client()
    assert frame.opcode is Opcode.CLOSE
    assert pair.client.close_rcvd is not None
    assert pair.client.close_rcvd.code == code
    assert pair.server.closing
    assert pair.server.ended


@pytest.mark.parametrize("data", [b"\xff", b"\xed\xa0\x80", b"\xc3"])
def test_a_text_that_is_not_utf_8_is_1007_rfc_6455_8_1(data: bytes) -> None:
    pair = Pair().accept()
    pair.client.send_text(data)
    pair.server.receive_data(b"".join(pair.client.data_to_send()))
    failed(pair, 1007)


@pytest.mark.parametrize("fragments", [[b"a" * 101], [b"a" * 60, b"a" * 60]])
def test_a_message_over_the_limit_is_1009_rfc_6455_7_4_1(fragments: list[bytes]) -> None:
    pair = Pair(Config(message_bytes=100)).accept()
    pair.client.send_binary(fragments[0], fin=len(fragments) == 1)
    for fragment in fragments[1:]:
        pair.client.send_continuation(fragment, fin=True)
    pair.server.receive_data(b"".join(pair.client.data_to_send()))
    failed(pair, 1009)


PROTOCOL_ERRORS = {
    "not masked, 5.1": b"\x81\x01a",
    "reserved bit, 5.2": b"\xc1\x80aaaa",
    "reserved opcode, 5.2": b"\x83\x80aaaa",
    "continuation of nothing, 5.4": b"\x80\x80aaaa",
    "a message in a message, 5.4": b"\x01\x80aaaa\x01\x80aaaa",
    "a long ping, 5.5": b"\x89\xfe\x00\x7eaaaa" + b"a" * 126,
    "a ping in fragments, 5.5": b"\x09\x80aaaa",
    "a close code of one byte, 5.5.1": b"\x88\x81\0\0\0\0\x03",
    "close code 1005, 7.4.1": b"\x88\x82\0\0\0\0\x03\xed",
}


@pytest.mark.parametrize("name", PROTOCOL_ERRORS)
def test_protocol_errors_are_1002(name: str) -> None:
    pair = Pair().accept()
    pair.server.receive_data(PROTOCOL_ERRORS[name])
    failed(pair, 1002)


# The end.


def test_the_peers_close_is_answered_and_told_rfc_6455_5_5_1() -> None:
    pair = Pair().accept()
    pair.client.send_close(3000, "enough")
    assert pair.to_server() == [disconnect(3000, "enough")]
    pair.to_client()
    assert pair.client.close_rcvd == pair.client.close_sent
    assert pair.server.closing


def test_a_close_without_a_code_is_1005_rfc_6455_7_1_5() -> None:
    pair = Pair().accept()
    pair.client.send_close()
    assert pair.to_server() == [disconnect(1005)]


def test_an_end_without_a_close_is_1006_rfc_6455_7_1_5() -> None:
    pair = Pair().accept()
    pair.server.receive_eof()
    assert pair.events() == [disconnect(1006)]


def test_the_disconnect_is_told_once() -> None:
    pair = Pair().accept()
    pair.client.send_close(1000)
    pair.to_server()
    pair.server.receive_eof()
    assert pair.events() == []


def test_messages_before_the_close_are_told_first_and_nothing_after_it() -> None:
    pair = Pair().accept()
    pair.client.send_text(b"last")
    pair.client.send_close(1000)
    bytes_after = b"\x81\x80aaaa"
    pair.server.receive_data(b"".join(pair.client.data_to_send()) + bytes_after)
    assert pair.events() == [text("last"), disconnect(1000)]


def test_what_came_before_a_bad_frame_can_still_be_answered_rfc_6455_5_2() -> None:
    pair = Pair().accept()
    pair.client.send_text(b"good")
    good = b"".join(pair.client.data_to_send())
    reserved_bit = bytes([good[0] | 0x40]) + good[1:]

    pair.server.receive_data(good + reserved_bit)

    assert list(pair.server.events) == [text("good")]
    pair.server.events.clear()
    pair.server.send({"type": "websocket.send", "text": "answer"})
    (answer,) = pair.to_client()
    pair.server.receive_data(b"")
    (close,) = pair.to_client()
    assert (answer.opcode, answer.data) == (Opcode.TEXT, b"answer")
    assert close.opcode is Opcode.CLOSE
    (event,) = pair.events()
    assert (event["type"], event["code"]) == ("websocket.disconnect", 1002)


def test_what_came_before_a_close_can_still_be_answered_rfc_6455_5_5_1() -> None:
    pair = Pair().accept()
    pair.client.send_text(b"last words")
    pair.client.send_close(1000)

    pair.server.receive_data(b"".join(pair.client.data_to_send()))

    assert pair.server.events.popleft() == text("last words")
    pair.server.send({"type": "websocket.send", "text": "good bye"})
    assert pair.to_client()[0].data == b"good bye"
    pair.server.receive_data(b"")
    assert pair.events() == [disconnect(1000, "")]


def test_a_close_between_fragments_is_a_close_rfc_6455_5_4() -> None:
    pair = Pair().accept()
    pair.client.send_text(b"begun", fin=False)
    pair.client.send_close(1000, "enough")

    assert pair.to_server() == [disconnect(1000, "enough")]
    assert pair.to_client()[0].data == b"\x03\xe8enough"


def test_the_applications_close_has_its_code_and_reason_rfc_6455_7_1_2() -> None:
    pair = Pair().accept()
    pair.server.close(4001, "no more")
    pair.to_client()
    assert pair.client.close_rcvd is not None
    assert (pair.client.close_rcvd.code, pair.client.close_rcvd.reason) == (4001, "no more")
    assert pair.to_server() == [disconnect(4001, "no more")]


def test_closing_twice_sends_one_frame() -> None:
    pair = Pair().accept()
    pair.server.close(1000, "")
    pair.server.close(1011, "")
    assert len(pair.to_client()) == 1


@pytest.mark.parametrize(("code", "reason"), [(1005, ""), (999, ""), (1006, ""), (1000, "a" * 124)])
def test_a_close_that_cannot_be_sent_is_an_error_rfc_6455_7_4(code: int, reason: str) -> None:
    with pytest.raises(ApplicationError, match="code"):
        Pair().accept().server.close(code, reason)


# Compression.


def compressing(**server: Any) -> Pair:
    return Pair(
        Config(compression=True, **server), extensions=[ClientPerMessageDeflateFactory()]
    ).accept()


def test_messages_are_compressed_when_configured_rfc_7692() -> None:
    pair = compressing()
    pair.server.send({"text": "abc" * 1000})
    data = pair.server.data_to_send()
    assert len(data) < 100
    pair.client.receive_data(data)
    (frame,) = pair.client.events_received()
    assert isinstance(frame, Frame)
    assert bytes(frame.data) == b"abc" * 1000
    pair.client.send_text(b"abc" * 1000)
    assert pair.to_server() == [text("abc" * 1000)]


def test_nothing_is_kept_between_messages_rfc_7692_7_1_1() -> None:
    server = compressing().server
    server.send({"text": "abc" * 100})
    first = server.data_to_send()
    server.send({"text": "abc" * 100})
    assert server.data_to_send() == first


def test_compression_is_not_offered_by_default() -> None:
    pair = Pair(extensions=[ClientPerMessageDeflateFactory()]).accept()
    assert pair.client.extensions == []


def test_unknown_deflate_parameters_are_declined_rfc_7692_7_1() -> None:
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; window=3\r\n"
    server = opened(KEY + VERSION + offer, Config(compression=True))
    server.accept({})
    assert b"Extensions" not in server.data_to_send()


def test_a_message_that_grows_beyond_the_limit_is_1009_rfc_7692_8() -> None:
    pair = compressing(message_bytes=10_000)
    pair.client.send_text(b"a" * 10_001)
    pair.server.receive_data(b"".join(pair.client.data_to_send()))
    failed(pair, 1009)


# Properties.


@given(
    st.lists(st.one_of(st.text(max_size=50), st.binary(max_size=200)), min_size=1, max_size=5),
    st.integers(1, 50),
    st.lists(st.integers(0, 5000), max_size=20),
)
def test_messages_mean_the_same_however_fragmented_and_cut(
    messages: list[str | bytes], fragment: int, cuts: list[int]
) -> None:
    pair = Pair().accept()
    for message in messages:
        content = message.encode() if isinstance(message, str) else message
        first, rest = content[:fragment], content[fragment:]
        send = pair.client.send_text if isinstance(message, str) else pair.client.send_binary
        send(first, fin=not rest)
        while rest:
            piece, rest = rest[:fragment], rest[fragment:]
            pair.client.send_continuation(piece, fin=not rest)
    stream = b"".join(pair.client.data_to_send())
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    for begin, end in pairwise(places):
        pair.server.receive_data(stream[begin:end])
    expected = [text(m) if isinstance(m, str) else binary(m) for m in messages]
    assert pair.events() == expected


@given(st.binary(max_size=100))
def test_garbage_ends_the_conversation_and_never_raises(garbage: bytes) -> None:
    server = Pair().accept().server
    server.receive_data(garbage)
    server.data_to_send()
    server.receive_eof()
    assert server.ended
    assert server.events[-1]["type"] == "websocket.disconnect"


def test_a_refused_handshake_is_seen_by_the_client() -> None:
    pair = Pair()
    pair.server.refuse()
    pair.client.receive_data(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(pair.client.handshake_exc, InvalidStatus)
    assert pair.client.state is State.CONNECTING
    assert pair.events() == [disconnect(1006)]
