"""The bridge: where the coroutine of an ASGI 3 application meets the greenlets of a connection.

All adapted connections of a thread share one loop. What may block is done by greenlets: `receive`
by one that reads only when it is asked, `send` by the connection's own, which has nothing else to
do; both ask our own server first what can be done without blocking, and that is most of it.
Synchronous code that the application calls through asgiref runs in a greenlet, too: in order
within a connection, at the same time for different ones.

Read next: `loop.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import gevent
from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from gevent.event import AsyncResult
from gevent.queue import SimpleQueue

from thyme.application import ASGI3Application, EsqueApplication, Event, Receive, Scope, Send
from thyme.executors import SerialExecutor
from thyme.loop import HubLoop, shared_loop

BEGUN_AT_ONCE = frozenset({"websocket.send", "http.response.start", "http.response.body"})
"""Events that our server can write without blocking, as far as the kernel takes them."""


def adapt(application: ASGI3Application) -> EsqueApplication:
    """An application of ours that runs the ASGI 3 `application` on the loop of this thread's hub.

    All adapted connections of a thread share one loop. Synchronous code that the application
    calls through asgiref runs in one greenlet per connection: in order within a connection, at
    the same time for different ones.
    """

    def adapted(scope: Scope, receive: Receive, send: Send) -> None:
        Bridge(application, scope, receive, send).run()

    adapted.__name__ = getattr(application, "__name__", type(application).__name__)
    return adapted


class Bridge:
    """One connection's coroutine, and the greenlets that block on its behalf.

    `receive` and `send` are the coroutine's; `blocking_receive` and `blocking_send` are what the
    server gave, for whoever runs in the connection's greenlet.
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
        self.reading = False
        self.events: deque[Event] = deque()
        self.error: Exception | None = None
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.direct = False
        server = getattr(send, "__self__", None)
        self.begin_send: Callable[[Event], bool] | None = getattr(server, "begin_send", None)
        self.finish_send: Callable[[], None] | None = getattr(server, "finish_send", None)
        self.receive_now: Callable[[], Event | None] = getattr(server, "receive_now", _nothing)

    def run(self) -> None:
        """Run the application to its end, in the greenlet of its connection."""
        self.loop.call_soon_threadsafe(self._begin)
        try:
            self._serve()
        except BaseException:  # this greenlet was killed: the server stops
            if self.task is not None:
                self.loop.call_soon_threadsafe(self.task.cancel)
            raise
        finally:
            if self.reader is not None:
                self.reader.kill()
            self._end_executor()
        if self.task is not None and not self.task.cancelled():
            self.task.result()

    def _end_executor(self) -> None:
        """Close what is open in its greenlet, and end it: a pool would miss the connection."""
        database = sys.modules.get("django.db")
        with contextlib.suppress(RuntimeError):  # it has been killed
            if database is not None and self.executor.greenlet is not None:
                self.executor.submit(database.connections.close_all)
        self.executor.shutdown(wait=False)

    def _begin(self) -> None:
        self.task = self.loop.create_task(self._main())
        self.task.add_done_callback(lambda task: self.outgoing.put(None))

    async def _main(self) -> None:
        async with ThreadSensitiveContext(executor=self.executor):
            await self.application(self.scope, self.receive, self.send)

    def _serve(self) -> None:
        """Do, in the connection's greenlet, what the coroutine asks for, until it ends."""
        while (item := self.outgoing.get()) is not None:
            call, arguments, future = item
            self._do(call, arguments, future)

    def _do(self, call: Callable[..., Any], arguments: Any, future: asyncio.Future[Any]) -> None:
        try:
            result = call(*arguments)
        except Exception as error:
            self.loop.settle(future, error=error)
        else:
            self.loop.settle(future, result)

    async def in_connection(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What `call` returns, called in the connection's greenlet, where it may block."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self.outgoing.put((call, arguments, future))
        return await future

    async def send(self, event: Event) -> None:
        """ASGI's `send`: done when the event has been taken by the socket (back-pressure)."""
        if self.begin_send is not None and event["type"] in BEGUN_AT_ONCE:
            if self.begin_send(event):
                return
            send: Callable[..., None] = self.finish_send  # type: ignore[assignment]
            arguments: tuple[Event, ...] = ()
        else:
            send, arguments = self.blocking_send, (event,)
        if self.direct:  # the connection's greenlet is busy: with a consumer
            future: asyncio.Future[Any] = self.loop.create_future()
            gevent.spawn(self._do, send, arguments, future)
            await future
        else:
            await self.in_connection(send, *arguments)

    async def converse(self, conversation: Callable[[], None]) -> None:
        """Leave the connection to `conversation`, in its own greenlet, until that returns."""
        self.direct = True
        await self.in_connection(conversation)

    # Receiving. An event waits in `events` until somebody takes it, so a cancelled call loses none.

    async def receive(self) -> Event:
        """ASGI's `receive`."""
        while (event := self.take()) is None:
            await self.arrival()
        return event

    def take(self) -> Event | None:
        """The next event, if there is one already; never blocks. Raises what receiving raised."""
        if self.events:
            return self.events.popleft()
        if self.reading:
            return None
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.receive_now()

    async def arrival(self) -> None:
        """Return when there may be something to take; also after `notify()`."""
        future: asyncio.Future[None] = self.loop.create_future()
        self.waiting.append(future)
        if not self.reading:
            self._ask()
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():  # it had been told: somebody else is to take what came
                self.notify()
            raise

    def notify(self) -> None:
        """There may be something to take: tell one of those who wait. From any greenlet."""
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():  # not cancelled meanwhile
                self.loop.settle(future, None)
                break

    def _ask(self) -> None:
        self.reading = True
        if self.reader is None:
            self.reader = gevent.spawn(self._read)
        else:
            self.asked.put(True)

    def _read(self) -> None:
        """Receive one event each time that it is asked for: what is not wanted stays unread."""
        while True:
            try:
                self.events.append(self.blocking_receive())
            except Exception as error:
                self.error = error
            self.reading = False
            self.notify()
            if self.waiting:
                self._ask()
            self.asked.get()


def _nothing() -> None:
    """There is never an event here already: somebody else's `receive` can only block."""


def on_loop(loop: HubLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What `coroutine` returns, run as a task of `loop`; blocks the calling greenlet only."""
    result: AsyncResult = AsyncResult()

    def settle(task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            result.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            result.set_exception(error)
        else:
            result.set(task.result())

    loop.call_soon_threadsafe(lambda: loop.create_task(coroutine).add_done_callback(settle))
    return result.get()


def belong_to(loop: HubLoop) -> None:
    """Let `async_to_sync`, called in this greenlet from now on, run its coroutines on `loop`.

    asgiref remembers the loop for the threads that its `sync_to_async` uses; a greenlet of ours is
    such a "thread". Without this each call would make a loop of its own.
    """
    SyncToAsync.threadlocal.main_event_loop = loop
    SyncToAsync.threadlocal.main_event_loop_pid = os.getpid()
