"""Frames, against the `websockets` library, which is the oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from thyme.protocol.frames import FIN_BINARY, FIN_TEXT, encode_frame, parse_head

SIZES = [0, 1, 125, 126, 127, 65535, 65536]
"""On both sides of each change in the length of a length (RFC 6455 5.2)."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("first", "opcode"), [(FIN_TEXT, Opcode.TEXT), (FIN_BINARY, Opcode.BINARY)]
)
def test_a_frame_is_that_of_the_library_unmasked_rfc_6455_5_1(
    size: int, first: int, opcode: Opcode
) -> None:
    payload = b"a" * size
    assert encode_frame(first, payload) == Frame(opcode, payload).serialize(mask=False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask", [False, True])
def test_a_head_tells_where_the_frame_ends_rfc_6455_5_2(size: int, mask: bool) -> None:
    data = Frame(Opcode.BINARY, b"a" * size).serialize(mask=mask)
    assert parse_head(b"xyz" + data + b"more", 3) == (len(data) - size, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask", [False, True])
def test_an_incomplete_head_is_none(size: int, mask: bool) -> None:
    data = Frame(Opcode.BINARY, b"a" * size).serialize(mask=mask)
    head = len(data) - size
    assert all(parse_head(data[:cut], 0) is None for cut in range(head))
    assert parse_head(data[:head], 0) == (head, size)


@given(st.binary(max_size=20), st.integers(0, 30))
def test_a_head_is_bounded_whatever_it_says_rfc_6455_5_2(data: bytes, start: int) -> None:
    found = parse_head(data, start)
    assert found is None or (2 <= found[0] <= min(14, len(data) - start) and found[1] < 1 << 64)
