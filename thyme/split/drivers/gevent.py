"""gevent driver for endpoints: callbacks, timers, lifelines. Read beside `asyncio.py`.

A lifeline says one line each way, and then nothing: the inbox that is called, the inbox that calls;
"yes". Reading from it ends when the other process does.

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

if TYPE_CHECKING:
    from thyme.split.endpoint import Desk

log = logging.getLogger("thyme.relay")

GREETING_SECONDS = 5.0
"""For connecting and the one line."""

GREETING_BYTES = 200
YES = b"yes\n"


class GeventDriver:
    """A desk's ways on gevent."""

    def __init__(self) -> None:
        self._listener: StreamServer | None = None
        self._greenlets: set[gevent.Greenlet] = set()
        self._warned = False

    def soon(self, function: Callable[[], None]) -> None:
        """Call it at the end of this turn of the hub, or in the next."""
        gevent.get_hub().loop.run_callback(function)

    def when_done(self, reply: Any, function: Callable[[Any, Exception | None], None]) -> None:
        """Call it with the value or the error of a reply."""
        reply.rawlink(lambda done: function(done.value, done.exception))

    def wait_for_quiet(self, desk: Desk, seconds: float) -> None:
        """Block until the desk has posted all that it has to say, at most so long."""
        bell = Event()
        desk.ring_quiet = bell.set
        with gevent.Timeout(seconds, False):
            while not desk.quiet:
                bell.clear()
                bell.wait()

    # -- lifelines

    def listen(self, host: str, desk: Desk) -> str | None:
        """Take lifelines at a free port of this host; "host:port"."""
        try:
            listener = StreamServer((host, 0), lambda taken, _: self._taken(taken, desk))
            listener.start()
        except OSError as error:
            log.warning("no lifelines at %s: %s", host, error)
            return None
        self._listener = listener
        return f"{host}:{listener.server_port}"

    def _taken(self, taken: Any, desk: Desk) -> None:
        greenlet = gevent.getcurrent()
        self._greenlets.add(greenlet)
        try:
            with gevent.Timeout(GREETING_SECONDS, OSError("no greeting")):
                called, _, calling = _line(taken).partition(" ")
                if called != desk.end.inbox:
                    return
                taken.sendall(YES)
            desk.taken.add(calling)
            _wait_for_end(taken)
            desk.taken.discard(calling)
            desk.lifeline_ended(calling, lambda: None)  # whoever holds it, comes again
        except OSError:
            pass
        finally:
            taken.close()
            self._greenlets.discard(greenlet)

    def hold(self, place: str, theirs: str, desk: Desk) -> None:
        """Hold a lifeline to the process with that inbox, which takes them there."""
        greenlet = gevent.spawn(self._hold, place, theirs, desk)
        self._greenlets.add(greenlet)
        greenlet.rawlink(self._greenlets.discard)

    def _hold(self, place: str, theirs: str, desk: Desk) -> None:
        host, _, port = place.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as connected:
            try:
                with gevent.Timeout(GREETING_SECONDS, OSError("no answer")):
                    connected.connect((host, int(port)))
                    connected.sendall(f"{theirs} {desk.end.inbox}\n".encode())
                    if _line(connected) != "yes":
                        raise OSError("somebody else answers there")
            except OSError as failure:
                error = failure  # perhaps because that process has died by now
                desk.lifeline_ended(theirs, lambda: self.warn(place, error))
                return
            _wait_for_end(connected)
        desk.lifeline_ended(theirs, lambda: self.hold(place, theirs, desk))

    def warn(self, place: str, error: Exception) -> None:
        """Say once that deaths will be noticed late."""
        if not self._warned:
            self._warned = True
            log.warning(
                "no lifeline to %s (%s): that a process has died is noticed when somebody sends "
                "to it; see Relay(lifeline=…)", place, error,
            )  # fmt: skip

    def close(self) -> None:
        """Let go of all lifelines, and take none."""
        if self._listener is not None:
            self._listener.close()
        gevent.killall(list(self._greenlets), block=False)


def _line(connected: Any) -> str:
    """One line, at most `GREETING_BYTES` long."""
    received = b""
    while not received.endswith(b"\n"):
        more = connected.recv(GREETING_BYTES)
        received += more
        if not more or len(received) > GREETING_BYTES:
            raise OSError("this is no lifeline")
    return received.decode("ascii", "replace").rstrip("\n")


def _wait_for_end(connected: Any) -> None:
    """Block until the other process, or its machine, is there no more."""
    enable_keepalive(connected)
    try:
        while connected.recv(GREETING_BYTES):
            pass
    except OSError:
        pass
