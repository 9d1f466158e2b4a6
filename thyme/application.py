"""What an application is: ASGI (esque).

ASGI's scope, events and their order, but no `await`: `application(scope, receive, send)` is an
ordinary function that runs in a greenlet of its own; `receive()` and `send()` block that greenlet
and nobody else. An ASGI 3 application (coroutines: stock Channels, Django's ASGI handler) is
adapted to this once, here, by `adapt()`.

This file decides how coroutines meet greenlets. It leaves the event loop itself to `loop.py` and
the meaning of the events to the server (`http11.py`, `websocket.py`) and the application.

Specification: https://asgi.readthedocs.io/en/latest/specs/main.html
Read next: `loop.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gevent
from asgiref.sync import ThreadSensitiveContext
from gevent.queue import SimpleQueue

from thyme.executors import SerialExecutor
from thyme.loop import HubLoop, shared_loop

Scope = dict[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Event]
Send = Callable[[Event], None]
EsqueApplication = Callable[[Scope, Receive, Send], None]
ASGI3Application = Callable[
    [Scope, Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]
]


class Disconnected(ConnectionError):
    """The other side has gone: `send` can deliver nothing more.

    An `OSError`, as the ASGI specification asks of a `send` after the disconnect.
    """


class ApplicationNotFound(Exception):
    """What was given as "module:attribute" does not name an application."""


def load(spec: str) -> EsqueApplication:
    """The application that `spec`, "module:attribute", names, ready to be called in a greenlet.

    An ASGI 3 application is adapted. Raises `ApplicationNotFound`, with what was got, what was
    expected and what to do; an error inside the module itself is left as it is.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise ApplicationNotFound(
            f"got {spec!r}, expected MODULE:ATTRIBUTE; try multichat.asgi:application"
        )
    if "" not in sys.path:  # like `python -m`: what is in this folder can be named
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ApplicationNotFound(
            f"there is no module {error.name!r} for {spec!r}; run from the folder that holds it"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ApplicationNotFound(f"{module_name!r} has no attribute {attribute!r}")
        found = getattr(found, name)
    return esque(found)


def esque(application: Any) -> EsqueApplication:
    """`application` itself when it is an ordinary callable, else its adaptation."""
    if not callable(application):
        raise ApplicationNotFound(f"got {application!r}, expected a callable application")
    return adapt(application) if is_asgi3(application) else application


def is_asgi3(application: Any) -> bool:
    """Whether calling `application` gives a coroutine (a coroutine function, or such a `__call__`).

    Channels' `as_asgi()` and routers and Django's handler all do.
    """
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(
        getattr(application, "__call__", None)  # noqa: B004 - its kind is asked, not its presence
    )


def adapt(application: ASGI3Application) -> EsqueApplication:
    """An application of ours that runs the ASGI 3 `application` on the loop of this thread's hub.

    All adapted connections of a thread share one loop. Synchronous code that the application
    calls through asgiref runs in one greenlet per connection: in order within a connection, at
    the same time for different ones.
    """

    def adapted(scope: Scope, receive: Receive, send: Send) -> None:
        _Bridge(application, scope, receive, send).run()

    adapted.__name__ = getattr(application, "__name__", type(application).__name__)
    return adapted


class _Bridge:
    """One connection's coroutine, and the greenlets that block on its behalf.

    Two things may block: `receive` has a greenlet of its own (the reader), started when first
    asked; `send` is done by the connection's own greenlet, which has nothing else to do.
    """

    def __init__(
        self, application: ASGI3Application, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.application = application
        self.scope = scope
        self.blocking_receive = receive
        self.blocking_send = send
        self.loop: HubLoop = shared_loop()
        self.executor = SerialExecutor()
        self.outgoing: SimpleQueue = SimpleQueue()
        self.asked: SimpleQueue = SimpleQueue()
        self.reader: gevent.Greenlet | None = None
        self.events: deque[Event] = deque()
        self.waiting: deque[asyncio.Future[Event]] = deque()
        self.task: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Run the application to its end, in the greenlet of its connection."""
        self.loop.call_soon_threadsafe(self._begin)
        try:
            self._serve_sends()
        except BaseException:  # this greenlet was killed: the server stops
            if self.task is not None:
                self.loop.call_soon_threadsafe(self.task.cancel)
            raise
        finally:
            if self.reader is not None:
                self.reader.kill()
            self.executor.shutdown(wait=False)
        if self.task is not None and not self.task.cancelled():
            self.task.result()

    def _begin(self) -> None:
        self.task = self.loop.create_task(self._main())
        self.task.add_done_callback(lambda task: self.outgoing.put(None))

    async def _main(self) -> None:
        async with ThreadSensitiveContext(executor=self.executor):
            await self.application(self.scope, self.receive, self.send)

    def _serve_sends(self) -> None:
        while (item := self.outgoing.get()) is not None:
            event, future = item
            try:
                self.blocking_send(event)
            except Exception as error:
                self.loop.call_soon_threadsafe(_fail, future, error)
            else:
                self.loop.call_soon_threadsafe(_resolve, future, None)

    async def send(self, event: Event) -> None:
        """ASGI's `send`: done when the event has been taken by the socket (back-pressure)."""
        future: asyncio.Future[None] = self.loop.create_future()
        self.outgoing.put((event, future))
        await future

    async def receive(self) -> Event:
        """ASGI's `receive`; what a cancelled call had asked for goes to the next call."""
        if self.events:
            return self.events.popleft()
        future: asyncio.Future[Event] = self.loop.create_future()
        self.waiting.append(future)
        if len(self.waiting) == 1:
            self._ask()
        return await future

    def _ask(self) -> None:
        if self.reader is None:
            self.reader = gevent.spawn(self._read)
        self.asked.put(True)

    def _read(self) -> None:
        """Receive one event each time that it is asked for: what is not wanted stays unread."""
        while self.asked.get():
            try:
                event = self.blocking_receive()
            except Exception as error:
                self.loop.call_soon_threadsafe(self._deliver_error, error)
            else:
                self.loop.call_soon_threadsafe(self._deliver, event)

    def _deliver(self, event: Event) -> None:
        self.events.append(event)
        while self.waiting and self.events:
            future = self.waiting.popleft()
            if not future.done():  # not cancelled meanwhile
                future.set_result(self.events.popleft())
        if self.waiting:
            self._ask()

    def _deliver_error(self, error: Exception) -> None:
        for future in self.waiting:
            _fail(future, error)
        self.waiting.clear()


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
