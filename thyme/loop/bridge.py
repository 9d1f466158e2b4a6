"""The bridge: where the coroutine of an ASGI 3 application meets the greenlets of a connection.

All adapted connections of a thread share one event loop, which runs in a greenlet of its own. The
coroutine of a connection runs there as a task. Whatever may block is done by greenlets on its
behalf: `receive` by the connection's own greenlet, which reads only when an event is asked for, and
`send` by a greenlet made for the occasion. Most calls need neither, because the transport can
usually receive or send without blocking (`Transport.receive_nowait`, `send_nowait`).

*Running inline.* An event usually arrives in the connection's greenlet. To wake the task by way of
the loop's greenlet would cost a switch to that greenlet and back. So while the loop has nothing
else to do, the connection's greenlet runs the task's next step itself, in the loop's place; see
`HubLoop.run_inline`.

Synchronous code that the application calls through asgiref runs in a greenlet, too: in order
within a connection, at the same time for different connections (`executors.py`).

Read next: `event_loop.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import gevent
from asgiref.sync import ThreadSensitiveContext
from gevent import monkey
from gevent.hub import Waiter

from thyme.asgi import SENT_NOWAIT, Application, ASGI3Application, Event, Scope, Transport
from thyme.loop.event_loop import HubLoop
from thyme.loop.executors import ConnectionExecutor, SerialExecutor
from thyme.loop.running import RunningLoopContext
from thyme.loop.shared import shared_loop


def adapt(application: ASGI3Application) -> Application:
    """Return an `Application` that runs the ASGI 3 `application` on the loop of this thread's hub.

    All adapted connections of a thread share one loop. Synchronous code that the application
    calls through asgiref runs in one greenlet per connection: in order within a connection, at
    the same time for different connections.
    """
    return _Adapted(application)


class _Adapted(Application):
    def __init__(self, application: ASGI3Application) -> None:
        self._application = application

    def serve(self, scope: Scope, transport: Transport) -> None:
        """Run the coroutine of one connection to its end."""
        Bridge(self._application, scope, transport).run()


class _ApplicationEnded(gevent.GreenletExit):
    """The application has ended while its connection's greenlet was receiving for it."""


class Bridge:
    """One connection's coroutine, and the greenlets that block on its behalf.

    `receive` and `send` are the coroutine's. Code that runs in the connection's own greenlet (see
    `run_in_greenlet`) calls `next_event` and `transport.send` instead, which block that greenlet.
    """

    current: ClassVar[contextvars.ContextVar[Bridge]] = contextvars.ContextVar("bridge")
    """The bridge of the connection that the running task serves."""

    __slots__ = (
        "_application_ended",
        "_calls",
        "_context",
        "_error",
        "_events",
        "_executor",
        "_greenlet",
        "_hub",
        "_idle",
        "_reading",
        "_task",
        "_waiting",
        "application",
        "loop",
        "scope",
        "transport",
    )

    def __init__(self, application: ASGI3Application, scope: Scope, transport: Transport) -> None:
        self.application = application
        self.scope = scope
        self.transport = transport
        self.loop: HubLoop = shared_loop()
        self._executor = SerialExecutor()
        self._greenlet: Any = gevent.getcurrent()
        self._context = RunningLoopContext()
        self._hub: Any = gevent.get_hub()
        self._calls: list[Callable[[], None]] = []  # a gevent queue would take 2 KiB
        self._idle: Waiter | None = None
        self._task: asyncio.Task[None] | None = None
        self._application_ended = False
        self._reading = False
        self._events: list[Event] = []  # mostly one or none
        self._error: Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []

    # The life of the connection.

    def run(self) -> None:
        """Run the application to its end, in the greenlet of its connection."""
        loop = self.loop
        try:
            if loop.can_run_inline():
                loop.run_inline(self._context, self._create_task, loop)
                if self._task is not None and not self._task.done():
                    self._task.add_done_callback(self._task_done)
            else:
                loop.call_soon_threadsafe(self._start_task)
            while not (self._context.killed or (self._task is not None and self._task.done())):
                if self._calls:
                    self._calls.pop(0)()
                else:
                    self._idle = Waiter(self._hub)
                    self._idle.get()
            if self._context.killed:
                raise gevent.GreenletExit  # the kill was thrown into a task that ran inline
        except _ApplicationEnded:
            pass
        except BaseException:  # this greenlet was killed: the server stops
            if self._task is not None:
                self.loop.call_soon_threadsafe(self._task.cancel)
            raise
        finally:
            self._application_ended = True
            self._end_executor()
        if self._task is not None and not self._task.cancelled():
            self._task.result()

    def _create_task(self, loop: HubLoop) -> None:
        self._task = asyncio.Task(self._main(), loop=loop, context=_initial_context())

    def _start_task(self) -> None:
        if not self._application_ended:
            self._task = self.loop.create_task(self._main(), context=_initial_context())
            self._task.add_done_callback(self._task_done)

    async def _main(self) -> None:
        ConnectionExecutor.current.set(self._executor)
        Bridge.current.set(self)
        await self.application(self.scope, self.receive, self.send)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if self._reading:
            self._hub.loop.run_callback(self._interrupt_reading)
        else:
            self._call_in_greenlet(_no_op)

    def _interrupt_reading(self) -> None:
        """End the wait for an event that nothing needs any more; called by the hub.

        Unless that wait is over by now: else this would hit what the greenlet does next, which may
        be another request.
        """
        if self._reading and not self._application_ended:
            self._greenlet.throw(_ApplicationEnded)

    def _end_executor(self) -> None:
        """End the executor's greenlet, having closed its database connections.

        A pool would miss a connection whose greenlet has gone.
        """
        if self._executor.greenlet is not None and (django := sys.modules.get("django.db")):
            with contextlib.suppress(RuntimeError):  # it has been killed
                self._executor.submit(django.connections.close_all)
        self._executor.shutdown(wait=False)

    # The connection's greenlet.

    def _call_in_greenlet(self, call: Callable[[], None]) -> None:
        """Have the connection's greenlet call `call`."""
        self._calls.append(call)
        idle, self._idle = self._idle, None
        if idle is not None:
            self._hub.loop.run_callback(idle.switch, None)

    async def run_in_greenlet(self, function: Callable[[], None]) -> None:
        """Leave the connection to `function`, in its own greenlet, until that returns."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._call_in_greenlet(lambda: self._settle_with(function, future))
        await future

    def _settle_with(self, call: Callable[[], None], future: asyncio.Future[None]) -> None:
        """Call `call`, which may block, and give its outcome to `future`."""
        try:
            call()
        except Exception as error:
            self.loop.settle(future, error=error)
        else:
            self.loop.settle(future)

    # Sending.

    async def send(self, event: Event) -> None:
        """ASGI's `send`; waits while the peer does not read as fast (back-pressure).

        What the transport can send without blocking goes out at the end of the hub's round.
        """
        transport = self.transport
        if event["type"] not in SENT_NOWAIT:
            blocking: Callable[[], None] = partial(transport.send, event)
        elif transport.send_nowait(event):
            return
        else:
            blocking = transport.drain
        future: asyncio.Future[None] = self.loop.create_future()
        if self._idle is not None and event["type"] == "websocket.accept":
            self._call_in_greenlet(lambda: self._settle_with(blocking, future))
        else:
            # A raw greenlet: `gevent.spawn` notes the stack of its caller, and Python then keeps an
            # object for each of its frames, 2 KiB, as long as the frame lives: here, as long as the
            # connection.
            gevent.spawn_raw(self._settle_with, blocking, future)
        await future

    # Receiving. An event stays in `_events` until it is returned, so a cancelled call loses none.

    async def receive(self) -> Event:
        """ASGI's `receive`."""
        while (event := self.receive_nowait()) is None:
            await self.wait_for_event()
        return event

    def receive_nowait(self) -> Event | None:
        """Return the next event, or None if there is none yet. Raises what receiving raised."""
        if self._events:
            return self._events.pop(0)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._reading:
            return None
        return self.transport.receive_nowait()

    async def wait_for_event(self) -> None:
        """Return when there may be an event to receive, or after `notify()`."""
        future: asyncio.Future[None] = asyncio.Future(loop=self.loop)
        self._waiting.append(future)
        if not self._reading:
            self._start_reading()
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():  # it had been notified: pass that on to another waiter
                self.notify()
            elif future in self._waiting:
                self._waiting.remove(future)
            raise

    def notify(self) -> None:
        """Wake one waiter of `wait_for_event`. May be called from any greenlet of this thread."""
        while self._waiting:
            future = self._waiting.pop(0)
            if not future.done():  # else it was cancelled meanwhile
                self.loop.settle(future)
                break

    def next_event(self) -> Event:
        """Return the next event; blocks the connection's greenlet, which must be the caller."""
        return self._events.pop(0) if self._events else self.transport.receive()

    def _start_reading(self) -> None:
        self._reading = True
        self._call_in_greenlet(self._read)

    def _read(self) -> None:
        """Receive one event. Only called on demand, so the rest stays unread (back-pressure)."""
        try:
            self._events.append(self.transport.receive())
        except Exception as error:
            self._error = error
        self._reading = False
        loop = self.loop
        if len(self._waiting) == 1 and loop.can_run_inline() and not self._waiting[0].done():
            loop.run_inline(self._context, self._waiting.pop().set_result, None)
        else:
            self.notify()
            if self._waiting and not self._reading:
                self._start_reading()


def _no_op() -> None:
    """Do nothing: the greenlet that calls this only had to be woken."""


def _initial_context() -> contextvars.Context:
    """Return a copy of a context in which asgiref runs synchronous code in our executors.

    The context is made once per thread: entering asgiref's context manager for each connection
    would cost as much as a fourth of a small request.
    """
    entered: contextvars.Context | None = getattr(_of_this_thread, "entered", None)
    if entered is None:
        entered = _of_this_thread.entered = contextvars.Context()
        entering = ThreadSensitiveContext(executor=ConnectionExecutor()).__aenter__()
        with contextlib.suppress(StopIteration):  # it awaits nothing
            entered.run(entering.send, None)
    return entered.copy()


_of_this_thread = monkey.get_original("_thread", "_local")()
