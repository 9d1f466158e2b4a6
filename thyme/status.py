"""Health and metrics of a server, for whoever watches it: an application on a bind of its own.

    /health    200 "ok" while it serves, 503 "stopping" once it has been told to stop
    /metrics   Prometheus' text

It is a second `Server` in the same process: when the first one's loop stalls, this does not answer
either, and that is the point. Keep its bind on loopback, or behind a firewall: it needs no login.
"""

from __future__ import annotations

import time

from gevent import get_hub

from thyme.application import Receive, Scope, Send
from thyme.server import Server
from thyme.tally import exposition

PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
PLAIN = b"text/plain; charset=utf-8"
_LAST = -1  # gevent's priorities: after the sockets


class Status:
    """An esque application that tells about `server`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            send({"type": "websocket.close"})
            return
        status, kind, text = self._answer(scope["path"])
        headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
        send({"type": "http.response.start", "status": status, "headers": headers})
        send({"type": "http.response.body", "body": text.encode()})

    def _answer(self, path: str) -> tuple[int, bytes, str]:
        if path == "/health":
            return (503, PLAIN, "stopping\n") if self._server.stopping else (200, PLAIN, "ok\n")
        if path == "/metrics":
            return 200, PROMETHEUS, self._metrics()
        return 404, PLAIN, "there are /health and /metrics\n"

    def _metrics(self) -> str:
        lag = loop_lag()
        return exposition(
            self._server.tally(),
            {
                "connections_open": ("Connections that are open", self._server.open_connections),
                "unsent_bytes": ("Written, and not taken by the kernel", self._server.unsent),
                "loop_lag_seconds": ("Until a due timer was served, at this moment", lag),
            },
        )


def loop_lag() -> float:
    """Seconds that a timer which is due at once waits for its turn, behind all ready sockets."""
    hub, begin = get_hub(), time.perf_counter()
    with hub.loop.timer(0, priority=_LAST) as turn:
        hub.wait(turn)
    return time.perf_counter() - begin
