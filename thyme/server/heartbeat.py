"""Keepalive of a WebSocket: when to ping a silent peer, and when to take it for dead.

A `Heartbeat` is one timer of gevent's loop; without one there is no timer at all. It compares how
many bytes have arrived, so a peer that sends anything is not pinged. The timer's callbacks run in
the hub and must not block. What a ping or a timeout does is left to two callbacks of
`server/websocket_cycle.py`.

Source: RFC 6455 5.5.2, "a Ping frame may serve either as a keepalive or as a means to verify that
the remote endpoint is still responsive".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import get_hub

from thyme.server.stream import LAST, Stream


class Heartbeat:
    """Calls `send_ping` when `stream` was silent for `ping_seconds`.

    Calls `on_timeout`, once, when it stays silent for `pong_seconds` more. Silence does not count
    while `is_reading` returns False: if the application takes no events, a pong stays unseen, and
    that is not the peer's fault. Nor is it if this process was blocked: before the
    timeout, the loop gets one more iteration to read what has arrived in the meantime.
    """

    __slots__ = ("_grace_given", "_is_reading", "_on_timeout", "_ping_seconds", "_pinged",
                 "_pong_seconds", "_received", "_send_ping", "_stream", "_timer")  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        ping_seconds: float,
        pong_seconds: float,
        *,
        send_ping: Callable[[], None],
        on_timeout: Callable[[], None],
        is_reading: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._ping_seconds, self._pong_seconds = ping_seconds, pong_seconds
        self._send_ping, self._on_timeout, self._is_reading = send_ping, on_timeout, is_reading
        self._pinged = self._grace_given = False
        self._timer: Any = None
        self._received = stream.received
        self._schedule(ping_seconds)

    def stop(self) -> None:
        """Stop pinging. Idempotent."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _schedule(self, seconds: float) -> None:
        self.stop()
        self._timer = get_hub().loop.timer(seconds, priority=LAST)
        self._timer.start(self._on_timer)

    def _on_timer(self) -> None:
        silent = self._stream.received == self._received and self._is_reading()
        self._received = self._stream.received
        if not silent:
            self._pinged = self._grace_given = False
            self._schedule(self._ping_seconds)
        elif not self._pinged:
            self._pinged = True
            self._schedule(self._pong_seconds)
            self._send_ping()
        elif not self._grace_given:
            self._grace_given = True
            self._schedule(0)  # after an iteration of the loop, in which sockets are read
        else:
            self.stop()
            self._on_timeout()
