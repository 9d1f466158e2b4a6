"""The life of an application: what it does before the first connection and after the last.

An esque application may have two methods, both optional and both called by the server in an
ordinary greenlet:

    startup()   before it listens; what it returns, a mapping, is every scope's "state"
    close()     after the last connection has ended

An ASGI 3 application says the same with a coroutine that lives as long as the server does, and
ASGI's "lifespan" scope. `Lifespan` makes the two methods of that coroutine. An application that
knows no such scope raises; ASGI: "the server must continue but not send any lifespan events".

Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
Read next: `server/server.py`, which calls them.
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

_UNKNOWN = "unknown"  # to the application: it has no lifespan


class Lifespan:
    """`startup()` and `close()` of an application that has a lifespan by ASGI, or none."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._asked: SimpleQueue = SimpleQueue()
        self._answer: AsyncResult = AsyncResult()
        self._life: gevent.Greenlet | None = None

    def startup(self) -> State:
        """Return when the application is ready to serve; its state. Raises `StartupFailed`."""
        state: State = {}
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": state,
        }
        self._life = gevent.spawn(self._live, scope)
        answer, message = self._ask("lifespan.startup")
        if answer == _UNKNOWN:
            self._life = None
        elif answer != "lifespan.startup.complete":
            raise StartupFailed(message or "the application says that its startup failed")
        return state

    def close(self) -> None:
        """Return when the application has put everything away. May be called without a startup."""
        life, self._life = self._life, None
        if life is None or life.ready():
            return
        try:
            answer, message = self._ask("lifespan.shutdown")
            if answer == "lifespan.shutdown.failed":
                _LOGGER.error("the application's shutdown failed: %s", message)
        finally:
            life.kill()

    def _ask(self, kind: str) -> tuple[str, str]:
        self._answer = AsyncResult()
        self._asked.put({"type": kind})
        answer: tuple[str, str] = self._answer.get()
        return answer

    def _live(self, scope: dict[str, Any]) -> None:
        try:
            self._application.serve(scope, BlockingTransport(self._asked.get, self._take))
        except Exception as error:
            if self._life is not None and self._answer.ready():
                _LOGGER.exception("the application's lifespan failed")
            else:
                _LOGGER.debug("the application has no lifespan: %s", error)
        if not self._answer.ready():
            self._answer.set((_UNKNOWN, ""))

    def _take(self, event: Event) -> None:
        kind = event["type"]
        if not kind.startswith("lifespan.") or self._answer.ready():
            raise ApplicationError(f"got {kind!r}, which answers nothing of its lifespan")
        self._answer.set((kind, event.get("message", "")))
