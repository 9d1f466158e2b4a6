"""ASGI's lifespan: an application's work before the first connection and after the last.

An `Application` has two methods for that, which the server calls in an ordinary greenlet:

    startup()   before it listens; the mapping it returns is the "state" of every scope
    close()     after the last connection has ended

An ASGI 3 application has a coroutine instead that lives as long as the server, with a scope of type
"lifespan". `Lifespan` makes the two methods of that coroutine. An application that does not support
this scope raises; ASGI: "the server must continue but not send any lifespan events".

Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
Read next: `server/server.py`, which calls the two methods.
"""

from __future__ import annotations

import logging
from typing import Any

import gevent
from gevent.event import AsyncResult
from gevent.queue import SimpleQueue

from thyme.asgi import Application, BlockingTransport, Event, State
from thyme.errors import ApplicationError, StartupFailed

_LOGGER = logging.getLogger("thyme.server")

_UNSUPPORTED = "unsupported"  # the application has no lifespan


class Lifespan:
    """`startup()` and `close()` of an ASGI 3 application, which may support lifespan or not."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._events: SimpleQueue = SimpleQueue()
        self._reply: AsyncResult = AsyncResult()
        self._greenlet: gevent.Greenlet | None = None

    def startup(self) -> State:
        """Return the state of the application when it is ready. Raises `StartupFailed`."""
        state: State = {}
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": state,
        }
        self._greenlet = gevent.spawn(self._run, scope)
        reply, message = self._request("lifespan.startup")
        if reply == _UNSUPPORTED:
            self._greenlet = None
        elif reply != "lifespan.startup.complete":
            raise StartupFailed(message or "the application reported that its startup failed")
        return state

    def close(self) -> None:
        """Return when the application has shut down. No-op without a successful startup."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is None or greenlet.ready():
            return
        try:
            reply, message = self._request("lifespan.shutdown")
            if reply == "lifespan.shutdown.failed":
                _LOGGER.error("the application's shutdown failed: %s", message)
        finally:
            greenlet.kill()

    def _request(self, kind: str) -> tuple[str, str]:
        self._reply = AsyncResult()
        self._events.put({"type": kind})
        reply: tuple[str, str] = self._reply.get()
        return reply

    def _run(self, scope: dict[str, Any]) -> None:
        try:
            self._application.serve(scope, BlockingTransport(self._events.get, self._send))
        except Exception as error:
            if self._greenlet is not None and self._reply.ready():
                _LOGGER.exception("the application's lifespan failed")
            else:
                _LOGGER.debug("the application does not support lifespan: %s", error)
        if not self._reply.ready():
            self._reply.set((_UNSUPPORTED, ""))

    def _send(self, event: Event) -> None:
        kind = event["type"]
        if not kind.startswith("lifespan.") or self._reply.ready():
            raise ApplicationError(f"got {kind!r}, expected a reply to the last lifespan event")
        self._reply.set((kind, event.get("message", "")))
