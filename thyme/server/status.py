"""Health and metrics of a server: an application that is served on an address of its own.

    /health    200 "ok" while the server accepts connections, 503 "stopping" once it is stopping
    /metrics   metrics in Prometheus' text format

It runs on a second `Server` in the same process, so it stops answering when that process's event
loop stalls; this is intended. It has no authentication: bind it to loopback, or protect it with a
firewall.

The metrics are the server's counters, a few gauges, and what the application itself reports
(`Application.metrics` in `asgi.py`): the relay and Channels' layer report queue lengths and drops.
With several processes, each serves a `Status` on a port of its own, and their parent serves a
`CombinedStatus`, which queries all of them.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
Taught in notebooks/14_under_load_and_shipping.ipynb.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from http.client import HTTPConnection, HTTPException

from gevent import Timeout, get_hub, socket
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import parse_labels, text_string_to_metric_families
from prometheus_client.registry import Collector

from thyme.asgi import Application, MetricFamily, Scope, Transport
from thyme.server.metrics import ServerCounters
from thyme.server.server import Server

PLAIN = "text/plain; charset=utf-8"

TIMEOUT_SECONDS = 2.0
"""For one process, or the application, to report. Prometheus itself waits for 10 s."""

MAXIMA = frozenset({"thyme_loop_lag_seconds", "gredis_queue_waiting"})
"""Metrics of which several processes report the largest value, not the sum.

Each process has its own loop lag; and all processes see the same queues.
"""

_AFTER_SOCKETS = -1
"""Priority of a gevent timer that runs after all sockets that are ready."""

_LOGGER = logging.getLogger("thyme.server")


class _StatusApplication(Application):
    """An application that answers /health and /metrics."""

    def serve(self, scope: Scope, transport: Transport) -> None:
        """Answer one request."""
        send = transport.send
        if scope["type"] != "http":
            send({"type": "websocket.close"})
            return
        content_type = PLAIN
        if scope["path"] == "/health":
            status, text = self.health()
        elif scope["path"] == "/metrics":
            content_type, status, text = CONTENT_TYPE_PLAIN_0_0_4, 200, self.exposition()
        else:
            status, text = 404, "not found; try /health or /metrics\n"
        headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
        send({"type": "http.response.start", "status": status, "headers": headers})
        send({"type": "http.response.body", "body": text.encode()})

    @abstractmethod
    def health(self) -> tuple[int, str]:
        """Return the status code and the text of /health."""

    @abstractmethod
    def exposition(self) -> str:
        """Return the text of /metrics."""


class Status(_StatusApplication):
    """Health and metrics of `server`, which runs in this process."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def health(self) -> tuple[int, str]:
        """Return 503 as soon as the server is stopping."""
        return (503, "stopping\n") if self._server.stopping else (200, "ok\n")

    def exposition(self) -> str:
        """Return the metrics of the server and of its application."""
        server = self._server
        gauges: list[MetricFamily] = [
            ("thyme_connections_open", "gauge", "Open connections", {"": server.open_connections}),
            (
                "thyme_unsent_bytes",
                "gauge",
                "Bytes not yet taken by the kernel",
                {"": server.unsent},
            ),
            ("thyme_loop_lag_seconds", "gauge", "Delay of a timer that was due", {"": loop_lag()}),
        ]
        own = [*counter_families(server.counters()), *gauges]
        return render([*map(as_metric, own), *application_metrics(server)])


class CombinedStatus(_StatusApplication):
    """Health and metrics of several processes, whose own `Status` is at `addresses`."""

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        self._addresses = addresses

    def health(self) -> tuple[int, str]:
        """Return 200 if all processes do."""
        if all(fetch_status(address, "/health")[0] == 200 for address in self._addresses):
            return 200, "ok\n"
        return 503, "not all processes are healthy\n"

    def exposition(self) -> str:
        """Return the combined metrics of the processes that answer.

        The counts of a process end with it: Prometheus sees that as a counter reset.
        """
        answers = [fetch_status(address, "/metrics") for address in self._addresses]
        return combine(text for status, text in answers if status == 200)


def counter_families(counters: ServerCounters) -> list[MetricFamily]:
    """Return one metric family for each of the server's counters."""
    return [
        (
            f"thyme_{counter.name}_total",
            "counter",
            counter.metadata["help"],
            {"": getattr(counters, counter.name)},
        )
        for counter in fields(counters)
    ]


def application_metrics(server: Server) -> list[Metric]:
    """Return the metrics that the server's application reports, if it reports any."""
    try:
        with Timeout(TIMEOUT_SECONDS):
            return [as_metric(each) for each in server.application.metrics()]
    except (Exception, Timeout) as error:  # the server's own metrics must not be lost
        _LOGGER.warning("the application did not report its metrics: %s", error)
        return []


def render(metrics: Collection[Metric]) -> str:
    """Return `metrics` in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Metrics(metrics))
    return generate_latest(registry).decode()


def combine(texts: Iterable[str]) -> str:
    """Return one text for those of several processes: sums, or maxima for `MAXIMA`."""
    combined: dict[str, Metric] = {}
    for text in texts:
        for metric in text_string_to_metric_families(text):
            merged = combined.setdefault(metric.name, metric)
            if merged is not metric:
                _merge(merged, metric)
    return render(combined.values())


def _merge(target: Metric, other: Metric) -> None:
    """Add the samples of `other` to those of `target`, label by label."""
    operation = max if target.name in MAXIMA else sum
    values = {(each.name, *sorted(each.labels.items())): each for each in target.samples}
    for sample in other.samples:
        key = (sample.name, *sorted(sample.labels.items()))
        if key in values:
            sample = sample._replace(value=operation((values[key].value, sample.value)))
        values[key] = sample
    target.samples = list(values.values())


def as_metric(family: MetricFamily) -> Metric:
    """Return the `Metric` of prometheus_client for `family`.

    Prometheus wants the names of counters to end in `_total`; the library keeps that apart.
    """
    name, kind, documentation, values = family
    suffix = "_total" if kind == "counter" else ""
    metric = Metric(name.removesuffix(suffix), documentation, kind)
    for labels, value in values.items():
        metric.add_sample(metric.name + suffix, parse_labels(labels), value)
    return metric


class _Metrics(Collector):
    """A collector of metrics that exist already."""

    def __init__(self, metrics: Collection[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield from self._metrics


class _GeventHTTPConnection(HTTPConnection):
    """The standard library's HTTP client on a gevent socket, whether or not it is patched."""

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.create_connection((self.host, self.port))


def fetch_status(address: tuple[str, int], path: str) -> tuple[int, str]:
    """Return the status code and text that the `Status` at `address` answers, or 503 on failure."""
    connection = _GeventHTTPConnection(*address)
    try:
        with Timeout(TIMEOUT_SECONDS):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
    except (OSError, HTTPException, Timeout):
        return 503, ""
    finally:
        connection.close()


def loop_lag() -> float:
    """Measure the event loop's lag, in seconds: a timer that is due now waits for ready sockets."""
    hub, begin = get_hub(), time.perf_counter()
    with hub.loop.timer(0, priority=_AFTER_SOCKETS) as timer:
        hub.wait(timer)
    return time.perf_counter() - begin
