"""WebSocket conformance, by the sections of Autobahn's list of cases (RFC 6455, RFC 7692).

Autobahn's own fuzzing client needs Python 2 and cannot be installed here; these are its kinds of
cases, written anew: https://github.com/crossbario/autobahn-testsuite. What cannot be seen from the
outside of one connection (its sections 9 and 12, speed) is the benchmark's.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode

from tests.thyme.server.fuzz import frame
from tests.thyme.serving import Browser, echo, serving
from thyme.server.server import Server

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
PROTOCOL_ERROR, NOT_UTF_8 = 1002, 1007


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(echo, compression=True) as running:
        yield running


def closed_with(browser: Browser) -> int | None:
    """The code of the server's close frame, after whatever it says before."""
    while browser.protocol.close_rcvd is None:
        browser.receive()
    return browser.protocol.close_rcvd.code


def send_cut(browser: Browser, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        browser.send(data[start : start + size])


# 1: framing. 2: pings and pongs.

SIZES = [0, 125, 126, 127, 128, 65535, 65536]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cut", [1 << 20, 997])
def test_1_texts_and_bytes_of_all_sizes(server: Server, size: int, cut: int) -> None:
    with Browser(server) as browser:
        for opcode in (Opcode.TEXT, Opcode.BINARY):
            browser.protocol.send_frame(Frame(opcode, b"*" * size))
            send_cut(browser, b"".join(browser.protocol.data_to_send()), cut)
            answer = browser.next()
            assert (answer.opcode, bytes(answer.data)) == (opcode, b"*" * size)


@pytest.mark.parametrize("payload", [b"", b"hello", b"\x00\xff\xfe", b"x" * 125])
def test_2_a_ping_is_answered_with_its_payload(server: Server, payload: bytes) -> None:
    with Browser(server) as browser:
        send_cut(browser, frame(PING, payload), 1)
        answer = browser.next()
        assert (answer.opcode, bytes(answer.data)) == (Opcode.PONG, payload)


def test_2_5_a_ping_of_126_bytes_is_a_protocol_error(server: Server) -> None:
    with Browser(server) as browser:
        browser.send(frame(PING, b"x" * 126))
        assert closed_with(browser) == PROTOCOL_ERROR


def test_2_7_unasked_pongs_are_ignored_and_2_10_ten_pings_are_ten_pongs(server: Server) -> None:
    with Browser(server) as browser:
        browser.send(frame(PONG, b"unasked"))
        browser.send(b"".join(frame(PING, b"%d" % number) for number in range(10)))
        assert [bytes(browser.next().data) for _ in range(10)] == [b"%d" % n for n in range(10)]


# 3: reserved bits. 4: opcodes. Masking (RFC 6455 5.1).


@pytest.mark.parametrize("bits", [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70])
@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_3_reserved_bits_are_a_protocol_error(bits: int, opcode: int) -> None:
    with serving(echo) as plain, Browser(plain) as browser:
        browser.send(frame(TEXT, b"good"))
        assert browser.hear() == "good"
        browser.send(frame(opcode | bits, b""))
        assert closed_with(browser) == PROTOCOL_ERROR


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_4_reserved_opcodes_are_a_protocol_error(server: Server, opcode: int) -> None:
    with Browser(server) as browser:
        browser.send(frame(0x80 | opcode, b""))
        assert closed_with(browser) == PROTOCOL_ERROR


def test_a_frame_without_a_mask_is_a_protocol_error_rfc_6455_5_1(server: Server) -> None:
    with Browser(server) as browser:
        browser.send(b"\x81\x02hi")
        assert closed_with(browser) == PROTOCOL_ERROR


# 5: fragments.


@pytest.mark.parametrize("cut", [1 << 20, 1])
def test_5_fragments_with_pings_between_are_one_message(server: Server, cut: int) -> None:
    with Browser(server) as browser:
        parts = frame(0x01, b"one ") + frame(PING, b"?") + frame(0x00, b"two ") + frame(0x80, b"!")
        send_cut(browser, parts, cut)
        assert browser.next().opcode is Opcode.PONG
        assert browser.hear() == "one two !"


@pytest.mark.parametrize(
    "frames",
    [
        [frame(0x09, b"a"), frame(0x80, b"b")],  # 5.1: a ping in pieces
        [frame(0x0A, b"a"), frame(0x80, b"b")],
        [frame(0x80, b"nothing to continue")],
        [frame(0x00, b"nothing to continue"), frame(0x80, b"b")],
        [frame(0x01, b"a"), frame(TEXT, b"another")],
        [frame(0x01, b"a"), frame(0x01, b"another")],
        [frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")],
    ],
)
def test_5_fragments_out_of_place_are_a_protocol_error(server: Server, frames: list[bytes]) -> None:
    with Browser(server) as browser:
        browser.send(b"".join(frames))
        assert closed_with(browser) == PROTOCOL_ERROR


# 6: UTF-8.

VALID = [b"", "κόσμε".encode(), b"\x00", b"\xc2\x80", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]
INVALID = [
    b"\xce\xba\xed\xa0\x80edited",  # a surrogate
    b"\xf8\x88\x80\x80\x80",  # five bytes
    b"\x80",
    b"\xc0\xaf",  # longer than needed
    b"\xe0\x80\xaf",
    b"\xf4\x90\x80\x80",  # beyond U+10FFFF
    b"abc\xce",  # ends too early
    b"\xff",
]


@pytest.mark.parametrize("text", VALID)
def test_6_texts_that_are_utf_8(server: Server, text: bytes) -> None:
    with Browser(server) as browser:
        browser.send(frame(TEXT, text))
        assert browser.hear() == text.decode()
        browser.send(b"".join(frame(0x01 if not n else 0x00, text[n : n + 1]) for n in (0, 1)))
        browser.send(frame(0x80, text[2:]))
        assert browser.hear() == text.decode()


@pytest.mark.parametrize("text", INVALID)
@pytest.mark.parametrize("whole", [True, False])
def test_6_texts_that_are_not_are_1007(server: Server, text: bytes, whole: bool) -> None:
    with Browser(server) as browser:
        parts = frame(TEXT, text) if whole else frame(0x01, text[:1]) + frame(0x80, text[1:])
        browser.send(parts)
        assert closed_with(browser) == NOT_UTF_8


# 7: closing.


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 3000, 3999, 4000, 4999])
def test_7_7_good_codes_are_echoed(server: Server, code: int) -> None:
    with Browser(server) as browser:
        browser.send(frame(CLOSE, code.to_bytes(2, "big") + "grüß".encode()))
        assert closed_with(browser) == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535])
def test_7_9_bad_codes_are_a_protocol_error(server: Server, code: int) -> None:
    with Browser(server) as browser:
        browser.send(frame(CLOSE, code.to_bytes(2, "big")))
        assert closed_with(browser) == PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", 1005),  # an empty answer
        (b"\x03", PROTOCOL_ERROR),
        (b"\x03\xe8" + b"x" * 123, 1000),
        (b"\x03\xe8" + b"x" * 124, PROTOCOL_ERROR),
        (b"\x03\xe8\xff", NOT_UTF_8),
    ],
)
def test_7_3_payloads_of_a_close(server: Server, payload: bytes, code: int) -> None:
    with Browser(server) as browser:
        browser.send(frame(CLOSE, payload))
        assert closed_with(browser) == code


def test_7_1_what_follows_a_close_is_ignored(server: Server) -> None:
    with Browser(server) as browser:
        browser.send(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"late") + frame(PING, b"late"))
        assert closed_with(browser) == 1000
        assert [each.opcode for each in browser.frames] == [Opcode.CLOSE]


# 10: fragments of our own choice. 12, 13: compression.


@pytest.mark.parametrize("size", [0, 16, 1024, 65536, 200_000])
@pytest.mark.parametrize("window", [None, 9, 15])
def test_12_compressed_messages(server: Server, size: int, window: int | None) -> None:
    deflate = ClientPerMessageDeflateFactory(server_max_window_bits=window)
    with Browser(server, extensions=[deflate]) as browser:
        content = ("thyme " * size)[:size]
        for _ in range(3):
            browser.say(content)
            assert browser.hear() == content


def test_13_compressed_fragments(server: Server) -> None:
    with Browser(server, extensions=[ClientPerMessageDeflateFactory()]) as browser:
        browser.protocol.send_text(b"in " * 100, fin=False)
        browser.protocol.send_continuation(b"parts", fin=True)
        browser.flush()
        assert browser.hear() == "in " * 100 + "parts"


def test_rubbish_that_claims_to_be_compressed_is_refused(server: Server) -> None:
    with Browser(server, extensions=[ClientPerMessageDeflateFactory()]) as browser:
        browser.send(frame(0xC1, b"\xff\xff\xff\xff"))
        assert closed_with(browser) in (PROTOCOL_ERROR, NOT_UTF_8, 1011)


def test_a_bomb_is_1009_before_it_is_unpacked() -> None:
    with serving(echo, compression=True, message_bytes=10_000) as small:
        with Browser(small, extensions=[ClientPerMessageDeflateFactory()]) as browser:
            browser.say("0" * 5_000_000)
            assert closed_with(browser) == 1009
