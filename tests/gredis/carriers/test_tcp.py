"""The TCP carrier: frames, without a hub."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gredis.carriers.base import ERROR, MESSAGE, REPLY
from gredis.carriers.tcp import LENGTH, MAX_FRAME_BYTES, VERSION, Frames, TcpCarrier, frame
from gredis.errors import GredisError

contents = st.lists(st.lists(st.binary() | st.integers(0, 2**32) | st.text("abc")), max_size=5)


@given(contents, st.data())
def test_frames_survive_any_cut(sent, data):
    wire = b"".join(map(frame, sent))
    cut = data.draw(st.integers(0, len(wire)))
    frames = Frames()
    assert [*frames.feed(wire[:cut]), *frames.feed(wire[cut:])] == sent


def test_a_frame_above_the_limit_is_refused_before_it_has_come():
    with pytest.raises(GredisError, match="exceeds the limit"):
        list(Frames().feed(LENGTH.pack(MAX_FRAME_BYTES + 1)))


def test_a_frame_that_is_not_messagepack_is_refused():
    with pytest.raises(GredisError, match="not MessagePack"):
        list(Frames().feed(LENGTH.pack(1) + b"\xc1"))


def test_the_handshake_has_the_version_and_one_reply():
    carrier = TcpCarrier("me", "p")
    handshake = carrier.handshake()
    assert handshake == [("p", "me", 0, "hello", VERSION)]
    assert carrier.count_replies(handshake) == 1


def test_replies_errors_and_messages_are_told_apart():
    wire = frame(["reply", b"OK"]) + frame(["error", "no"]) + frame(["message", 1, 2, b"u1\0x"])
    expected = [(REPLY, b"OK"), (ERROR, "no"), (MESSAGE, (1, 2, b"u1\0x"))]
    assert list(TcpCarrier("me").decoder().feed(wire)) == expected
