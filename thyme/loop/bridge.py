"""The bridge: where the coroutine of an ASGI 3 application meets the greenlets of a connection.

All adapted connections of a thread share one loop. What may block is done by greenlets: `receive`
by the connection's own, which reads only when it is asked, `send` by one that is made for it; both
ask our own server first what can be done without blocking, and that is most of it. What has come
is handled where it came: the connection's greenlet borrows the loop for the next step of its task,
while the loop has nothing else to do.
Synchronous code that the application calls through asgiref runs in a greenlet, too: in order
within a connection, at the same time for different ones.

Read next: `loop/event_loop.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from asgiref.sync import ThreadSensitiveContext
from gevent import monkey
from gevent.hub import Waiter

from thyme.asgi import ASGI3Application, BlockingApplication, Event, Receive, Scope, Send
from thyme.loop.event_loop import HubLoop
from thyme.loop.executors import ConnectionExecutor, SerialExecutor
from thyme.loop.running import Turns
from thyme.loop.shared import shared_loop

BEGUN_AT_ONCE = frozenset({"websocket.send", "http.response.start", "http.response.body"})
"""Events that our server can begin to write without blocking."""


def adapt(application: ASGI3Application) -> BlockingApplication:
    """An application of ours that runs the ASGI 3 `application` on the loop of this thread's hub.

    All adapted connections of a thread share one loop. Synchronous code that the application
    calls through asgiref runs in one greenlet per connection: in order within a connection, at
    the same time for different ones.
    """

    def adapted(scope: Scope, receive: Receive, send: Send) -> None:
        Bridge(application, scope, receive, send).run()

    adapted.__name__ = getattr(application, "__name__", type(application).__name__)
    return adapted


class _Over(gevent.GreenletExit):
    """The application has ended while its connection's greenlet was receiving for it."""


class Bridge:
    """One connection's coroutine, and the greenlets that block on its behalf.

    `receive` and `send` are the coroutine's; `next_event` and `blocking_send` are for who converses
    in the connection's greenlet; `blocking_receive` and `blocking_send` are what the server gave.
    """

    __slots__ = (
        "_asked",
        "_error",
        "_events",
        "_executor",
        "_greenlet",
        "_hub",
        "_idle",
        "_over",
        "_reading",
        "_receive_now",
        "_server",
        "_task",
        "_turns",
        "_waiting",
        "application",
        "blocking_receive",
        "blocking_send",
        "loop",
        "scope",
    )

    def __init__(
        self, application: ASGI3Application, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.application = application
        self.scope = scope
        self.blocking_receive = receive
        self.blocking_send = send
        self.loop: HubLoop = shared_loop()
        self._executor = SerialExecutor()
        self._greenlet: Any = gevent.getcurrent()
        self._turns = Turns()
        self._hub: Any = gevent.get_hub()
        self._asked: list[Callable[[], None]] = []  # a queue of gevent's takes 2 KiB
        self._idle: Waiter | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = False
        self._reading = False
        self._events: list[Event] = []  # mostly one or none
        self._error: Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []
        server = getattr(send, "__self__", None)
        self._server: Any = server if hasattr(server, "begin_send") else None
        self._receive_now: Callable[[], Event | None] = getattr(server, "receive_now", _nothing)

    # The life of the connection.

    def run(self) -> None:
        """Run the application to its end, in the greenlet of its connection."""
        loop = self.loop
        try:
            if loop.can_lend():
                loop.step(self._turns, self._create_task, loop)
                if self._task is not None and not self._task.done():
                    self._task.add_done_callback(self._end)
            else:
                loop.call_soon_threadsafe(self._begin)
            while not (self._turns.killed or (self._task is not None and self._task.done())):
                if self._asked:
                    self._asked.pop(0)()
                else:
                    self._idle = Waiter(self._hub)
                    self._idle.get()
            if self._turns.killed:
                raise gevent.GreenletExit  # what was thrown has ended a task instead
        except _Over:
            pass
        except BaseException:  # this greenlet was killed: the server stops
            if self._task is not None:
                self.loop.call_soon_threadsafe(self._task.cancel)
            raise
        finally:
            self._over = True
            self._end_executor()
        if self._task is not None and not self._task.cancelled():
            self._task.result()

    def _create_task(self, loop: HubLoop) -> None:
        self._task = asyncio.Task(self._main(), loop=loop, context=_beginning())

    def _ask_for(self, call: Callable[[], None]) -> None:
        """Have `call` called in the connection's greenlet."""
        self._asked.append(call)
        idle, self._idle = self._idle, None
        if idle is not None:
            self._hub.loop.run_callback(idle.switch, None)

    def _begin(self) -> None:
        if not self._over:
            self._task = self.loop.create_task(self._main(), context=_beginning())
            self._task.add_done_callback(self._end)

    async def _main(self) -> None:
        ConnectionExecutor.current.set(self._executor)
        await self.application(self.scope, self.receive, self.send)

    def _end(self, task: asyncio.Task[None]) -> None:
        if self._reading:
            self._hub.loop.run_callback(self._interrupt)
        else:
            self._ask_for(_nothing)

    def _interrupt(self) -> None:
        """End the wait for what nobody wants, unless it is over by now: called by the hub.

        Else it would end what the greenlet does next, which may be another request.
        """
        if self._reading and not self._over:
            self._greenlet.throw(_Over)

    def _end_executor(self) -> None:
        """Close what is open in its greenlet, and end it: a pool would miss the connection."""
        if self._executor.greenlet is not None and (django := sys.modules.get("django.db")):
            with contextlib.suppress(RuntimeError):  # it has been killed
                self._executor.submit(django.connections.close_all)
        self._executor.shutdown(wait=False)

    # Sending.

    async def send(self, event: Event) -> None:
        """ASGI's `send`; waits when the peer does not read as fast (back-pressure).

        What our own server can begin to write goes out at the end of this round of the hub.
        """
        server = self._server
        if server is None or event["type"] not in BEGUN_AT_ONCE:
            send = partial(self.blocking_send, event)
        elif server.begin_send(event):
            return
        else:
            send = server.finish_send
        future: asyncio.Future[None] = self.loop.create_future()
        if self._idle is not None and event["type"] == "websocket.accept":
            self._ask_for(lambda: self._do(send, future))  # nothing is received before it
        else:
            # Raw: `gevent.spawn` notes who has spawned, and then Python keeps an object for each
            # frame of that stack, 2 KiB, as long as the frame lives: here, the connection.
            gevent.spawn_raw(self._do, send, future)
        await future

    def _do(self, call: Callable[[], None], future: asyncio.Future[None]) -> None:
        try:
            call()
        except Exception as error:
            self.loop.settle(future, error=error)
        else:
            self.loop.settle(future)

    async def converse(self, conversation: Callable[[], None]) -> None:
        """Leave the connection to `conversation`, in its own greenlet, until that returns."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._ask_for(lambda: self._do(conversation, future))
        await future

    # Receiving. An event waits in `_events` until it is taken, so a cancelled call loses none.

    async def receive(self) -> Event:
        """ASGI's `receive`."""
        while (event := self.take()) is None:
            await self.arrival()
        return event

    def take(self) -> Event | None:
        """The next event, if there is one already; never blocks. Raises what receiving raised."""
        if self._events:
            return self._events.pop(0)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._reading:
            return None
        return self._receive_now()

    async def arrival(self) -> None:
        """Return when there may be something to take; also after `notify()`."""
        future: asyncio.Future[None] = asyncio.Future(loop=self.loop)
        self._waiting.append(future)
        if not self._reading:
            self._ask()
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():  # it had been told: somebody else is to take what came
                self.notify()
            elif future in self._waiting:
                self._waiting.remove(future)
            raise

    def notify(self) -> None:
        """There may be something to take: tell one of those who wait. From any greenlet."""
        while self._waiting:
            future = self._waiting.pop(0)
            if not future.done():  # not cancelled meanwhile
                self.loop.settle(future)
                break

    def next_event(self) -> Event:
        """As `receive`, for who converses: blocks the connection's greenlet."""
        return self._events.pop(0) if self._events else self.blocking_receive()

    def _ask(self) -> None:
        self._reading = True
        self._ask_for(self._read)

    def _read(self) -> None:
        """Receive one event, because it was asked for: what is not wanted stays unread."""
        try:
            self._events.append(self.blocking_receive())
        except Exception as error:
            self._error = error
        self._reading = False
        loop = self.loop
        if len(self._waiting) == 1 and loop.can_lend() and not self._waiting[0].done():
            loop.step(self._turns, self._waiting.pop().set_result, None)
        else:
            self.notify()
            if self._waiting and not self._reading:
                self._ask()


def _nothing() -> None:
    """Nothing to do; nothing to give: somebody else's `receive` can only block."""


def _beginning() -> contextvars.Context:
    """A copy of this thread's context in which asgiref runs synchronous code in our executors.

    To enter asgiref's context anew would cost as much as a fourth of a small request.
    """
    entered: contextvars.Context | None = getattr(_of_this_thread, "entered", None)
    if entered is None:
        entered = _of_this_thread.entered = contextvars.Context()
        entering = ThreadSensitiveContext(executor=ConnectionExecutor()).__aenter__()
        with contextlib.suppress(StopIteration):  # it awaits nothing
            entered.run(entering.send, None)
    return entered.copy()


_of_this_thread = monkey.get_original("_thread", "_local")()
