"""Health and metrics, on a bind of their own."""

from __future__ import annotations

import re
from typing import Any

import gevent
import pytest

from tests.thyme.serving import DEADLINE, Browser, HTTPPeer, Peer, echo, eventually, serving
from thyme.asgi import Receive, Scope, Send
from thyme.loading import prepare
from thyme.server.metrics import Family, added_up
from thyme.server.status import PROMETHEUS, Status


def asked(server: object, path: str) -> tuple[int, str]:
    with serving(Status(server)) as status, HTTPPeer(status) as peer:  # type: ignore[arg-type]
        peer.ask(target=path)
        code, text = peer.answer()
        return code, text.decode()


def test_metrics_count_what_happened() -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/bad":
            raise ValueError
        echo(scope, receive, send)

    with serving(application) as server, Browser(server, "/ws") as browser:
        for path in ("/", "/bad"):
            with HTTPPeer(server) as peer:
                peer.ask(target=path)
                peer.answer()
        with Peer(server, b"nonsense\r\n\r\n") as peer:
            peer.read_all()
        browser.say("a")
        browser.hear()
        eventually(lambda: server.open_connections == 1)
        text = asked(server, "/metrics")[1]
    values = dict(re.findall(r"^thyme_(\w+) (\S+)$", text, re.MULTILINE))
    lag = float(values.pop("loop_lag_seconds"))
    assert 0 <= lag < DEADLINE
    assert int(values.pop("bytes_received_total")) > 100
    assert int(values.pop("bytes_sent_total")) > 100
    assert {name: int(value) for name, value in values.items()} == {
        "connections_total": 4,
        "refused_total": 0,
        "requests_total": 2,
        "errors_total": 1,
        "bad_requests_total": 1,
        "websockets_total": 1,
        "slow_clients_total": 0,
        "messages_received_total": 1,
        "messages_sent_total": 1,
        "connections_open": 1,
        "unsent_bytes": 0,
    }


def test_the_text_is_prometheus_s() -> None:
    with serving(echo) as server:
        with serving(Status(server)) as status, HTTPPeer(status) as peer:
            peer.ask(target="/metrics")
            assert (b"content-type", PROMETHEUS) in list(peer.next().headers)
        for line in asked(server, "/metrics")[1].splitlines():
            assert re.fullmatch(r"# (HELP|TYPE) thyme_\w+ .+|thyme_\w+ [0-9.e-]+", line)


def test_health_is_503_while_it_stops() -> None:
    with serving(echo, drain_seconds=60) as server, Browser(server, "/") as browser:
        assert asked(server, "/health") == (200, "ok\n")
        stopping = gevent.spawn(server.stop)
        gevent.sleep(0)
        assert asked(server, "/health") == (503, "stopping\n")
        browser.closed()
        stopping.get()


def test_there_is_nothing_else() -> None:
    with serving(echo) as server:
        assert asked(server, "/")[0] == 404
        with serving(Status(server)) as status, Browser(status) as browser:
            assert browser.protocol.handshake_exc is not None


class Counting:
    """An application that counts something itself."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        echo(scope, receive, send)

    def metrics(self) -> list[Family]:
        if self.fails:
            raise OSError("nobody to ask")
        return [("tea_waiting", "gauge", "Pots", {'kind="green"': 3, 'kind="black"': 1})]


def test_an_application_adds_its_own_figures() -> None:
    with serving(Counting()) as server:
        text = asked(server, "/metrics")[1]
    assert '# TYPE tea_waiting gauge\ntea_waiting{kind="green"} 3\n' in text


def test_an_application_that_cannot_tell_does_not_hide_the_servers_figures() -> None:
    with serving(Counting(fails=True)) as server:
        assert "thyme_requests_total 0\n" in asked(server, "/metrics")[1]


def test_a_channel_layer_adds_its_own_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    from channels import layers

    monkeypatch.setitem(layers.channel_layers.backends, "default", Counting())

    async def application(scope: Scope, receive: Any, send: Any) -> None:
        raise NotImplementedError

    with serving(prepare(application)) as server:
        assert 'tea_waiting{kind="black"} 1\n' in asked(server, "/metrics")[1]


def test_figures_of_several_processes_are_added_up_or_the_largest() -> None:
    one = "# HELP a b\nthyme_requests_total 2\nthyme_loop_lag_seconds 0.5\n"
    other = "# HELP a b\nthyme_requests_total 3\nthyme_loop_lag_seconds 0.25\n"
    assert added_up([one, other]) == (
        "# HELP a b\nthyme_requests_total 5\nthyme_loop_lag_seconds 0.5\n"
    )
