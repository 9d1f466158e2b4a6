"""asyncio driver for endpoints: callbacks, timers, lifelines. Read beside `gevent.py`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

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

ACCEPT_SECONDS = 1.0
"""Pause after a failure to accept a connection, such as too many open files."""


class AsyncioDriver:
    """Schedules an endpoint's calls on the running loop, and holds its lifelines in tasks."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._drained = asyncio.Event()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call `function` in the next round of the loop."""
        self._loop.call_soon(function)

    def when_done(self, reply: Any, function: Callable[[Any, Exception | None], None]) -> None:
        """Call `function` with the value or the error of a reply of gredis."""

        def done(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled():
                error = reply.exception()
                function(None if error else reply.result(), error)  # type: ignore[arg-type]

        reply.add_done_callback(done)

    def on_drained(self) -> None:
        """Wake `wait_until_drained`."""
        self._drained.set()

    async def wait_until_drained(self, endpoint: Endpoint, seconds: float) -> None:
        """Wait until the endpoint has posted everything, for at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not endpoint.drained:
                    self._drained.clear()
                    await self._drained.wait()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- lifelines

    def accept_lifelines(self, host: str, endpoint: Endpoint) -> str | None:
        """Accept lifelines at a free port of `host`; return "host:port", or None if impossible."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, 0), family=family)
        except OSError as error:
            log.warning("cannot accept lifelines at %s: %s", host, error)
            return None
        listener.setblocking(False)
        self._start(self._listen(listener, endpoint))
        return f"{host}:{listener.getsockname()[1]}"

    async def _listen(self, listener: socket.socket, endpoint: Endpoint) -> None:
        with listener:
            while True:
                try:
                    peer, _ = await self._loop.sock_accept(listener)
                except OSError as error:
                    log.warning("cannot accept a lifeline: %s", error)
                    await asyncio.sleep(ACCEPT_SECONDS)
                else:
                    self._start(self._accept(peer, endpoint))

    async def _accept(self, peer: socket.socket, endpoint: Endpoint) -> None:
        with peer:
            peer.setblocking(False)
            try:
                async with asyncio.timeout(GREETING_SECONDS):
                    caller = caller_of(await self._read_line(peer), endpoint.inbox)
                    if caller is None:
                        return
                    await self._loop.sock_sendall(peer, ACCEPTED)
            except OSError:
                return  # no greeting, or a stranger
            endpoint.lifeline_accepted(caller)
            await self._wait_for_end(peer)
        endpoint.accepted_lifeline_ended(caller)

    def hold_lifeline(self, place: str, inbox: str, endpoint: Endpoint) -> None:
        """Open a lifeline to the process `inbox`, which accepts them at `place`."""
        self._start(self._hold(place, inbox, endpoint))

    async def _hold(self, place: str, inbox: str, endpoint: Endpoint) -> None:
        host, _, port = place.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as connected:
            connected.setblocking(False)
            try:
                async with asyncio.timeout(GREETING_SECONDS):
                    await self._loop.sock_connect(connected, (host, int(port)))
                    await self._loop.sock_sendall(connected, greeting(inbox, endpoint.inbox))
                    if not is_accepted(await self._read_line(connected)):
                        raise OSError("another process answers there")
            except OSError as error:
                endpoint.lifeline_failed(place, inbox, error)
                return
            await self._wait_for_end(connected)
        endpoint.lifeline_ended(inbox, lambda: self.hold_lifeline(place, inbox, endpoint))

    def close(self) -> None:
        """Close all lifelines, and accept no more."""
        for task in self._tasks:
            task.cancel()

    async def _read_line(self, connected: socket.socket) -> str:
        reader = LineReader()
        while True:
            data = await self._loop.sock_recv(connected, GREETING_BYTES)
            if (line := reader.receive_data(data)) is not None:
                return line

    async def _wait_for_end(self, connected: socket.socket) -> None:
        """Wait until the other process, or its machine, is gone."""
        enable_keepalive(connected)
        try:
            while await self._loop.sock_recv(connected, GREETING_BYTES):
                pass
        except OSError:
            pass
