"""asyncio driver for endpoints: callbacks, timers, lifelines. Read beside `gevent.py`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from gredis.drivers.sockets import enable_keepalive

if TYPE_CHECKING:
    from thyme.split.endpoint import Desk

log = logging.getLogger("thyme.relay")

GREETING_SECONDS = 5.0
"""For connecting and the one line."""

ACCEPT_SECONDS = 1.0
"""Pause after a failure to take one."""

GREETING_BYTES = 200
YES = b"yes\n"


class AsyncioDriver:
    """A desk's ways on the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned = False

    def soon(self, function: Callable[[], None]) -> None:
        """Call it in the next turn of the loop."""
        self._loop.call_soon(function)

    def when_done(self, reply: Any, function: Callable[[Any, Exception | None], None]) -> None:
        """Call it with the value or the error of a reply."""

        def done(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled():
                error = reply.exception()
                function(None if error else reply.result(), error)  # type: ignore[arg-type]

        reply.add_done_callback(done)

    async def wait_for_quiet(self, desk: Desk, seconds: float) -> None:
        """Wait until the desk has posted all that it has to say, at most so long."""
        bell = asyncio.Event()
        desk.ring_quiet = bell.set
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not desk.quiet:
                    bell.clear()
                    await bell.wait()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- lifelines

    def listen(self, host: str, desk: Desk) -> str | None:
        """Take lifelines at a free port of this host; "host:port"."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            bound = socket.create_server((host, 0), family=family)
        except OSError as error:
            log.warning("no lifelines at %s: %s", host, error)
            return None
        bound.setblocking(False)
        self._start(self._accept(bound, desk))
        return f"{host}:{bound.getsockname()[1]}"

    async def _accept(self, bound: socket.socket, desk: Desk) -> None:
        with bound:
            while True:
                try:
                    taken, _ = await self._loop.sock_accept(bound)
                except OSError as error:  # no more open files, say
                    log.warning("cannot take a lifeline: %s", error)
                    await asyncio.sleep(ACCEPT_SECONDS)
                else:
                    self._start(self._taken(taken, desk))

    async def _taken(self, taken: socket.socket, desk: Desk) -> None:
        with taken:
            taken.setblocking(False)
            try:
                async with asyncio.timeout(GREETING_SECONDS):
                    called, _, calling = (await self._line(taken)).partition(" ")
                    if called != desk.end.inbox:
                        return
                    await self._loop.sock_sendall(taken, YES)
            except OSError:
                return
            desk.taken.add(calling)
            await self._wait_for_end(taken)
            desk.taken.discard(calling)
        desk.lifeline_ended(calling, lambda: None)  # whoever holds it, comes again

    def hold(self, place: str, theirs: str, desk: Desk) -> None:
        """Hold a lifeline to the process with that inbox, which takes them there."""
        self._start(self._hold(place, theirs, desk))

    async def _hold(self, place: str, theirs: str, desk: Desk) -> None:
        host, _, port = place.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as connected:
            connected.setblocking(False)
            try:
                async with asyncio.timeout(GREETING_SECONDS):
                    await self._loop.sock_connect(connected, (host, int(port)))
                    greeting = f"{theirs} {desk.end.inbox}\n".encode()
                    await self._loop.sock_sendall(connected, greeting)
                    if await self._line(connected) != "yes":
                        raise OSError("somebody else answers there")
            except OSError as failure:
                error = failure  # perhaps because that process has died by now
                desk.lifeline_ended(theirs, lambda: self.warn(place, error))
                return
            await self._wait_for_end(connected)
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
        for task in self._tasks:
            task.cancel()

    async def _line(self, connected: socket.socket) -> str:
        """One line, at most `GREETING_BYTES` long."""
        received = b""
        while not received.endswith(b"\n"):
            more = await self._loop.sock_recv(connected, GREETING_BYTES)
            received += more
            if not more or len(received) > GREETING_BYTES:
                raise OSError("this is no lifeline")
        return received.decode("ascii", "replace").rstrip("\n")

    async def _wait_for_end(self, connected: socket.socket) -> None:
        """Wait until the other process, or its machine, is there no more."""
        enable_keepalive(connected)
        try:
            while await self._loop.sock_recv(connected, GREETING_BYTES):
                pass
        except OSError:
            pass
