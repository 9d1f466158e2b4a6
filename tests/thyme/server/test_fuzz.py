"""The fuzzer works, and finds nothing in a second; CI gives it a minute (.ci/run)."""

from __future__ import annotations

import pytest

from tests.thyme.server import fuzz
from thyme.protocol.http11 import RequestParser


def test_a_second_of_fuzzing_finds_nothing() -> None:
    assert fuzz.fuzz(1, seed=0, least=12) > 10


def test_what_depends_on_the_pieces_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = RequestParser.feed
    monkeypatch.setattr(RequestParser, "feed", lambda self, data: feed(self, data[:50]))
    with pytest.raises(AssertionError, match="in pieces"):
        fuzz.fuzz(20, seed=0, least=1000)
