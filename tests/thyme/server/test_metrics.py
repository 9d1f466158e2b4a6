"""The counters of a server, as others read them."""

from __future__ import annotations

from dataclasses import fields

from tests.thyme.serving import HTTPPeer, echo, eventually, serving
from thyme.server.metrics import ServerCounters


def test_every_counter_starts_at_zero_and_has_a_help_text() -> None:
    for counter in fields(ServerCounters):
        assert counter.default == 0
        assert counter.metadata["help"]


def test_open_and_closed_connections_are_counted_alike() -> None:
    with serving(echo) as server:
        for requests in (1, 2):
            with HTTPPeer(server) as peer:
                peer.ask(target="/")
                peer.answer()
                assert (server.counters().connections, server.counters().requests) == (
                    requests,
                    requests,
                )
                received = server.counters().bytes_received
                assert received > 0
            eventually(lambda: server.open_connections == 0)
            assert server.counters().bytes_received == received
