"""Whether the peer of a WebSocket is still there: pings, and patience.

A `Heartbeat` is one timer of gevent's loop; without one there is no timer at all. It looks at how
many bytes have come, so a peer that speaks is never pinged. The timer's callbacks run in the hub
and therefore must not block: what is to be done about silence is the caller's, in two functions.

Source: RFC 6455 5.5.2, "a Ping frame may serve either as a keepalive or as a means to verify that
the remote endpoint is still responsive".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import get_hub

from thyme.server.stream import LAST, Stream


class Heartbeat:
    """Calls `ping` when `stream` was silent for `ping_seconds`, `lost` after `pong_seconds` more.

    `listening` tells whether anybody reads: while the application takes no events a pong would
    stay unseen, and the peer is not to blame. Nor is it when we stood still: before it is given up,
    what has come meanwhile is read.
    """

    __slots__ = ("_interval", "_listening", "_looked", "_lost", "_ping", "_pinged", "_seen",
                 "_stream", "_timer", "_wait")  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        ping_seconds: float,
        pong_seconds: float,
        *,
        ping: Callable[[], None],
        lost: Callable[[], None],
        listening: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._interval, self._wait = ping_seconds, pong_seconds
        self._ping, self._lost, self._listening = ping, lost, listening
        self._pinged = self._looked = False
        self._timer: Any = None
        self._seen = stream.received
        self._next(ping_seconds)

    def stop(self) -> None:
        """No more pings. Idempotent."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _next(self, seconds: float) -> None:
        self.stop()
        self._timer = get_hub().loop.timer(seconds, priority=LAST)
        self._timer.start(self._beat)

    def _beat(self) -> None:
        silent = self._stream.received == self._seen and self._listening()
        self._seen = self._stream.received
        if not silent:
            self._pinged = self._looked = False
            self._next(self._interval)
        elif not self._pinged:
            self._pinged = True
            self._next(self._wait)
            self._ping()
        elif not self._looked:
            self._looked = True
            self._next(0)  # after a round of the hub, in which sockets are read
        else:
            self.stop()
            self._lost()
