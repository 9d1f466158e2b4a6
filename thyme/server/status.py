"""Health and metrics of a server, for whoever watches it: an application on a bind of its own.

    /health    200 "ok" while it serves, 503 "stopping" once it has been told to stop
    /metrics   Prometheus' text

It is a second `Server` in the same process: when the first one's loop stalls, this does not answer
either, and that is the point. Keep its bind on loopback, or behind a firewall: it needs no login.

An application adds its own figures with a method `metrics()` (families as in `server/metrics.py`):
the relay and Channels' layer know queue lengths and drops. With several processes each has a
`Status` at a place of its own, and their parent a `Gathered` that asks them all.

Taught in notebooks/14_under_load_and_shipping.ipynb.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Sequence

from gevent import Timeout, get_hub, socket

from thyme.asgi import Application, Scope, Transport
from thyme.server.metrics import Family, added_up, exposition
from thyme.server.server import Server

PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
PLAIN = b"text/plain; charset=utf-8"
_LAST = -1  # gevent's priorities: after the sockets


ASK_SECONDS = 2.0
"""For each process, or the application, to say how it does: Prometheus itself waits for 10 s."""

_LOGGER = logging.getLogger("thyme.server")

Answer = tuple[int, str]


class _Status(Application):
    """An esque application that answers /health and /metrics."""

    def serve(self, scope: Scope, transport: Transport) -> None:
        """Answer one request."""
        send = transport.send
        if scope["type"] != "http":
            send({"type": "websocket.close"})
            return
        kind = PLAIN
        if scope["path"] == "/health":
            status, text = self.health()
        elif scope["path"] == "/metrics":
            kind, (status, text) = PROMETHEUS, self.exposition()
        else:
            status, text = 404, "there are /health and /metrics\n"
        headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
        send({"type": "http.response.start", "status": status, "headers": headers})
        send({"type": "http.response.body", "body": text.encode()})

    @abstractmethod
    def health(self) -> Answer:
        """Whether connections are welcome."""

    @abstractmethod
    def exposition(self) -> Answer:
        """Figures, for Prometheus."""


class Status(_Status):
    """Tells about `server`, which runs in this process."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def health(self) -> Answer:
        """503 from the moment that it is told to stop."""
        return (503, "stopping\n") if self._server.stopping else (200, "ok\n")

    def exposition(self) -> Answer:
        """What the server and its application count."""
        server, lag = self._server, loop_lag()
        gauges: dict[str, tuple[str, float]] = {
            "connections_open": ("Connections that are open", server.open_connections),
            "unsent_bytes": ("Written, and not taken by the kernel", server.unsent),
            "loop_lag_seconds": ("Until a due timer was served, at this moment", lag),
        }
        return 200, exposition(server.tally(), gauges, families(server.application))


class Gathered(_Status):
    """Tells about several processes, whose own `Status` is at `places`: (host, port) each."""

    def __init__(self, places: Sequence[tuple[str, int]]) -> None:
        self._places = places

    def health(self) -> Answer:
        """200 while all are well."""
        if all(asked(place, "/health")[0] == 200 for place in self._places):
            return 200, "ok\n"
        return 503, "not all processes serve\n"

    def exposition(self) -> Answer:
        """Sums over those that answer; counts of a process that has ended are gone."""
        answers = [asked(place, "/metrics") for place in self._places]
        return 200, added_up([text for status, text in answers if status == 200])


def asked(place: tuple[str, int], path: str) -> Answer:
    """What a `Status` answers; 503 when nobody does in time."""
    answer = b""
    try:
        with Timeout(ASK_SECONDS), socket.create_connection(place) as connection:
            connection.sendall(b"GET %b HTTP/1.0\r\n\r\n" % path.encode())
            while piece := connection.recv(65536):
                answer += piece
    except (OSError, Timeout):
        return 503, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def families(application: Application) -> list[Family]:
    """What `application` counts itself, if it does."""
    try:
        with Timeout(ASK_SECONDS):
            return application.metrics()
    except (Exception, Timeout) as error:  # the figures of the server itself must come
        _LOGGER.warning("no metrics from the application: %s", error)
        return []


def loop_lag() -> float:
    """Seconds that a timer which is due at once waits for its turn, behind all ready sockets."""
    hub, begin = get_hub(), time.perf_counter()
    with hub.loop.timer(0, priority=_LAST) as turn:
        hub.wait(turn)
    return time.perf_counter() - begin
