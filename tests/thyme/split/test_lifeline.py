"""The greeting on a lifeline."""

from __future__ import annotations

import pytest

from thyme.split.lifeline import (
    ACCEPTED,
    GREETING_BYTES,
    LineReader,
    caller_of,
    greeting,
    is_accepted,
)


def read(*parts: bytes) -> str | None:
    reader, line = LineReader(), None
    for part in parts:
        assert line is None
        line = reader.receive_data(part)
    return line


def test_a_greeting_names_both_processes():
    line = read(greeting("called", "caller"))
    assert line is not None
    assert caller_of(line, "called") == "caller"


@pytest.mark.parametrize("line", ["another caller", "called", "called ", ""])
def test_a_greeting_for_another_process_is_refused(line):
    assert caller_of(line, "called") is None


def test_only_a_yes_accepts():
    assert is_accepted(read(ACCEPTED) or "")
    assert not is_accepted("HTTP/1.1 400 Bad Request")


def test_a_line_may_arrive_in_parts():
    assert read(b"ye", b"s", b"\n") == "yes"


@pytest.mark.parametrize("data", [b"", b"x" * (GREETING_BYTES + 1)], ids=["closed", "too long"])
def test_anything_else_is_an_error(data):
    with pytest.raises(OSError, match="expected a lifeline's greeting"):
        read(data)
