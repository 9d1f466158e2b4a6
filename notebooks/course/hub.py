"""A gevent hub in a native thread of its own, so that a server answers while no cell runs.

A cell runs in the kernel's main thread. A server whose hub were there would only answer while a
cell waits inside gevent, and a plain blocking browser in the same thread would wait for ever. So:
the hub in a thread beside, ordinary blocking sockets in the cells. Nothing is patched.

    with Hub() as hub:                                  or: hub = Hub() … hub.stop()
        server = hub.call(start_a_server, port)         in a greenlet over there; its result is here
        pending = hub.spawn(something_slow)             a concurrent.futures.Future

What belongs to a hub (a `StreamServer`, an `Event`) is also *made* over there: at birth it asks its
thread which hub is its own. thyme's `Server` does so only in `start()`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Group

SECONDS = 60.0  # after which a call from a cell gives up; a cell may take 180


class Hub:
    """Call things in greenlets of its thread; after `stop()` hub, greenlets and thread are gone."""

    def __init__(self, name: str = "hub") -> None:
        self._orders: deque[tuple[Future[Any], Callable[..., Any], Any, Any]] = deque()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()
        self._ready.wait(SECONDS)

    def spawn(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Have `function` called in a greenlet over there, and do not wait for it."""
        if not self.alive:
            raise RuntimeError("this hub has been stopped")
        future: Future[Any] = Future()
        self._orders.append((future, function, args, kwargs))
        self._wake.send()  # the one thing of a hub that may be called from another thread
        return future

    def call(
        self, function: Callable[..., Any], *args: Any, seconds: float = SECONDS, **kwargs: Any
    ) -> Any:
        """What `function` returns or raises, when called in a greenlet over there."""
        return self.spawn(function, *args, **kwargs).result(seconds)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def native_id(self) -> int | None:
        """The number of the thread for the kernel: /proc/self/task/NUMBER."""
        return self._thread.native_id

    def stop(self) -> None:
        """Kill what still runs over there, and wait until the thread has ended."""
        if self.alive:
            self.call(self._stopped.set)
            self._thread.join(SECONDS)
        if self.alive:
            raise RuntimeError("the hub's thread did not end")

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _live(self) -> None:
        hub = gevent.get_hub()
        self._greenlets = Group()
        self._stopped = Event()
        self._wake = hub.loop.async_()
        self._wake.start(self._take_orders)
        self._ready.set()
        self._stopped.wait()
        self._greenlets.kill()
        self._wake.stop()
        self._wake.close()
        hub.destroy(destroy_loop=True)

    def _take_orders(self) -> None:
        while self._orders:
            self._greenlets.spawn(_fulfil, *self._orders.popleft())


def _fulfil(future: Future[Any], function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    try:
        future.set_result(function(*args, **kwargs))
    except BaseException as error:  # a greenlet that is killed included: whoever waits is told
        future.set_exception(error)
