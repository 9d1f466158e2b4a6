"""Health and metrics, on an address of their own."""

from __future__ import annotations

import socket
from typing import Any

import gevent
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.thyme.serving import DEADLINE, Browser, HTTPPeer, Peer, echo, eventually, serving
from thyme.asgi import MetricFamily, Receive, Scope, Send
from thyme.loading import prepare
from thyme.server.server import Server
from thyme.server.status import CombinedStatus, Status, combine, fetch_status

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def fetch(server: Server, path: str) -> tuple[int, str]:
    """Ask a `Status` of `server` for `path`."""
    with serving(Status(server)) as status:
        return fetch_status(status.address, path)


def values(text: str) -> dict[str, float]:
    """Return the value of each sample without labels in a text of Prometheus."""
    families = text_string_to_metric_families(text)
    return {each.name: each.value for family in families for each in family.samples}


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
        found = values(fetch(server, "/metrics")[1])
    assert 0 <= found.pop("thyme_loop_lag_seconds") < DEADLINE
    assert found.pop("thyme_bytes_received_total") > 100
    assert found.pop("thyme_bytes_sent_total") > 100
    assert found == {
        "thyme_connections_total": 4,
        "thyme_refused_total": 0,
        "thyme_requests_total": 2,
        "thyme_errors_total": 1,
        "thyme_bad_requests_total": 1,
        "thyme_websockets_total": 1,
        "thyme_slow_clients_total": 0,
        "thyme_messages_received_total": 1,
        "thyme_messages_sent_total": 1,
        "thyme_connections_open": 1,
        "thyme_unsent_bytes": 0,
    }


def test_the_text_has_the_content_type_types_and_help_of_prometheus() -> None:
    with serving(echo) as server, serving(Status(server)) as status, HTTPPeer(status) as peer:
        peer.ask(target="/metrics")
        assert (b"content-type", CONTENT_TYPE) in list(peer.next().headers)
        text = fetch_status(status.address, "/metrics")[1]
    assert "# HELP thyme_requests_total HTTP requests served\n" in text
    assert "# TYPE thyme_requests_total counter\nthyme_requests_total 0.0\n" in text
    assert "# TYPE thyme_unsent_bytes gauge\n" in text
    assert all(family.documentation for family in text_string_to_metric_families(text))


def test_health_is_503_while_the_server_stops() -> None:
    with serving(echo, drain_seconds=60) as server, Browser(server, "/") as browser:
        assert fetch(server, "/health") == (200, "ok\n")
        stopping = gevent.spawn(server.stop)
        gevent.sleep(0)
        assert fetch(server, "/health") == (503, "stopping\n")
        browser.closed()
        stopping.get()


def test_other_paths_are_404_and_websockets_are_refused() -> None:
    with serving(echo) as server:
        assert fetch(server, "/")[0] == 404
        with serving(Status(server)) as status, Browser(status) as browser:
            assert browser.protocol.handshake_exc is not None


class Counting:
    """An application that reports `families`, or fails with an error."""

    def __init__(self, *families: MetricFamily, error: Exception | None = None) -> None:
        self.families = families
        self.error = error

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        echo(scope, receive, send)

    def metrics(self) -> list[MetricFamily]:
        if self.error:
            raise self.error
        return list(self.families)


TEA = ("tea_waiting", "gauge", "Pots", {'kind="green \\"x\\""': 3, 'kind="black"': 1})


def test_an_application_adds_its_own_metrics() -> None:
    with serving(Counting(TEA, ("tea_drunk_total", "counter", "Cups", {"": 7}))) as server:
        text = fetch(server, "/metrics")[1]
    assert '# TYPE tea_waiting gauge\ntea_waiting{kind="green \\"x\\""} 3.0\n' in text
    assert "# HELP tea_drunk_total Cups\n# TYPE tea_drunk_total counter\n" in text
    assert "tea_drunk_total 7.0\n" in text


@pytest.mark.parametrize(
    "application",
    [
        Counting(error=OSError("Redis is gone")),
        Counting(("tea_waiting", "gauge", "Pots", {"kind=green": 3})),
    ],
)
def test_an_application_that_cannot_report_does_not_hide_the_servers_metrics(
    application: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(application) as server:
        assert values(fetch(server, "/metrics")[1])["thyme_requests_total"] == 0
    assert "the application did not report its metrics" in caplog.text


def test_a_channel_layer_adds_its_own_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from channels import layers

    monkeypatch.setitem(layers.channel_layers.backends, "default", Counting(TEA))

    async def application(scope: Scope, receive: Any, send: Any) -> None:
        raise NotImplementedError

    with serving(prepare(application)) as server:
        assert 'tea_waiting{kind="black"} 1.0\n' in fetch(server, "/metrics")[1]


def test_metrics_of_several_processes_are_sums_or_the_largest_value() -> None:
    one = (
        "# HELP thyme_requests_total HTTP requests served\n# TYPE thyme_requests_total counter\n"
        "thyme_requests_total 2.0\n# HELP thyme_loop_lag_seconds Lag\n"
        "# TYPE thyme_loop_lag_seconds gauge\nthyme_loop_lag_seconds 0.5\n"
        "# HELP tea_waiting Pots\n# TYPE tea_waiting gauge\n"
        'tea_waiting{kind="black"} 1.0\ntea_waiting{kind="green"} 2.0\n'
    )
    other = (
        one.replace("total 2.0", "total 3.0").replace("0.5", "0.25").replace('"black"', '"white"')
    )
    assert combine([one, other]) == (
        one.replace("total 2.0", "total 5.0").replace('"green"} 2.0\n', '"green"} 4.0\n')
        + 'tea_waiting{kind="white"} 1.0\n'
    )
    assert combine([]) == ""


def test_several_processes_are_combined_and_a_missing_one_makes_them_unhealthy() -> None:
    with serving(echo) as server, serving(Status(server)) as one, serving(Status(server)) as two:
        combined = CombinedStatus([one.address, two.address])
        assert combined.health() == (200, "ok\n")
        assert values(combined.exposition())["thyme_connections_open"] == 0
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = closed.getsockname()
        combined = CombinedStatus([one.address, nobody])
        assert combined.health()[0] == 503
        assert "thyme_requests_total 0.0\n" in combined.exposition()


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"]
)
def test_a_broken_answer_counts_as_unhealthy(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reply() -> None:
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(1000)
                accepted.sendall(answer)

        replying = gevent.get_hub().threadpool.spawn(reply)
        assert fetch_status(listening.getsockname(), "/health") == (503, "")
        replying.get()
