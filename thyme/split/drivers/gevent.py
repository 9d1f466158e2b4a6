"""gevent driver for endpoints: callbacks, timers, lifelines. Read beside `asyncio.py`.

Taught in notebooks/13_when_things_die.ipynb.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer

from gredis.drivers.sockets import enable_keepalive
from thyme.split.lifeline import (
    ACCEPTED,
    GREETING_BYTES,
    GREETING_SECONDS,
    LineReader,
    caller_of,
    greeting,
    is_accepted,
)

if TYPE_CHECKING:
    from thyme.split.endpoint import Endpoint

log = logging.getLogger("thyme.relay")


class GeventDriver:
    """Schedules an endpoint's calls on gevent's hub, and holds its lifelines in greenlets."""

    def __init__(self) -> None:
        self._listener: StreamServer | None = None
        self._greenlets: set[gevent.Greenlet] = set()
        self._drained = Event()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call `function` at the end of this round of the hub, or in the next."""
        gevent.get_hub().loop.run_callback(function)

    def when_done(self, reply: Any, function: Callable[[Any, Exception | None], None]) -> None:
        """Call `function` with the value or the error of a reply of gredis."""
        reply.rawlink(lambda done: function(done.value, done.exception))

    def on_drained(self) -> None:
        """Wake `wait_until_drained`."""
        self._drained.set()

    def wait_until_drained(self, endpoint: Endpoint, seconds: float) -> None:
        """Block until the endpoint has posted everything, for at most `seconds`."""
        with gevent.Timeout(seconds, False):
            while not endpoint.drained:
                self._drained.clear()
                self._drained.wait()

    # -- lifelines

    def accept_lifelines(self, host: str, endpoint: Endpoint) -> str | None:
        """Accept lifelines at a free port of `host`; return "host:port", or None if impossible."""
        try:
            listener = StreamServer((host, 0), lambda peer, _: self._accept(peer, endpoint))
            listener.start()
        except OSError as error:
            log.warning("cannot accept lifelines at %s: %s", host, error)
            return None
        self._listener = listener
        return f"{host}:{listener.server_port}"

    def _accept(self, peer: socket.socket, endpoint: Endpoint) -> None:
        greenlet = gevent.getcurrent()
        self._greenlets.add(greenlet)
        try:
            with gevent.Timeout(GREETING_SECONDS, OSError("no greeting")):
                caller = caller_of(_read_line(peer), endpoint.inbox)
                if caller is None:
                    return
                peer.sendall(ACCEPTED)
            endpoint.lifeline_accepted(caller)
            _wait_for_end(peer)
            endpoint.accepted_lifeline_ended(caller)
        except OSError:
            pass  # no greeting, or a stranger
        finally:
            peer.close()
            self._greenlets.discard(greenlet)

    def hold_lifeline(self, place: str, inbox: str, endpoint: Endpoint) -> None:
        """Open a lifeline to the process `inbox`, which accepts them at `place`."""
        greenlet = gevent.spawn(self._hold, place, inbox, endpoint)
        self._greenlets.add(greenlet)
        greenlet.rawlink(self._greenlets.discard)

    def _hold(self, place: str, inbox: str, endpoint: Endpoint) -> None:
        host, _, port = place.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as connected:
            try:
                with gevent.Timeout(GREETING_SECONDS, OSError("no answer")):
                    connected.connect((host, int(port)))
                    connected.sendall(greeting(inbox, endpoint.inbox))
                    if not is_accepted(_read_line(connected)):
                        raise OSError("another process answers there")
            except OSError as error:
                endpoint.lifeline_failed(place, inbox, error)
                return
            _wait_for_end(connected)
        endpoint.lifeline_ended(inbox, lambda: self.hold_lifeline(place, inbox, endpoint))

    def close(self) -> None:
        """Close all lifelines, and accept no more."""
        if self._listener is not None:
            self._listener.close()
        gevent.killall(list(self._greenlets), block=False)


def _read_line(connected: socket.socket) -> str:
    reader = LineReader()
    while (line := reader.receive_data(connected.recv(GREETING_BYTES))) is None:
        pass
    return line


def _wait_for_end(connected: socket.socket) -> None:
    """Block until the other process, or its machine, is gone."""
    enable_keepalive(connected)
    try:
        while connected.recv(GREETING_BYTES):
            pass
    except OSError:
        pass
