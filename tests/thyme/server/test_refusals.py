"""Refusals: one way to send them, with any header fields."""

from __future__ import annotations

import pytest

from tests.thyme.serving import Peer, hello, serving
from thyme.config import Config
from thyme.errors import Disconnected
from thyme.protocol.http import Refusal
from thyme.protocol.http11 import HTTP11
from thyme.server import refusals
from thyme.server import server as server_module
from thyme.server.refusals import TOO_MANY_CONNECTIONS, send_refusal


class Gone:
    """A stream whose peer has gone."""

    def write(self, data: bytes) -> None:
        raise Disconnected("the peer is gone")


@pytest.mark.parametrize(
    "refusal", [each for each in vars(refusals).values() if isinstance(each, Refusal)]
)
def test_each_is_a_whole_response_that_names_its_reason(refusal: Refusal) -> None:
    written: list[bytes] = []
    stream = type("Written", (), {"write": lambda self, data: written.append(data)})()
    send_refusal(stream, HTTP11(Config()), refusal)
    (data,) = written
    assert data.startswith(b"HTTP/1.1 %d " % refusal.status)
    assert b"\r\nconnection: close\r\n" in data
    assert data.endswith(b": %b\n" % refusal.reason.encode())


def test_a_peer_that_has_gone_is_no_error() -> None:
    send_refusal(Gone(), HTTP11(Config()), TOO_MANY_CONNECTIONS)  # type: ignore[arg-type]


def test_its_header_fields_reach_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Refusal(503, "later", ((b"retry-after", b"1"),))
    monkeypatch.setattr(server_module, "TOO_MANY_CONNECTIONS", refusal)
    with serving(hello, connections=0) as server, Peer(server) as peer:
        assert b"\r\nretry-after: 1\r\n" in peer.read_all()
