"""A selector on gevent's hub: how the loop waits without holding up other greenlets.

asyncio's loop asks a selector which file descriptors are ready, and blocks in that call while it
has nothing to do. Here the call blocks one greenlet: the hub watches the descriptors, and other
greenlets run meanwhile. Waking it needs no self-pipe and none of its three system calls: the same
thread switches to the greenlet, another thread uses one of the hub's `async` watchers.

The hub watches only while the loop runs, between `start()` and `stop()`. So a loop belongs to the
native thread that runs it, whichever thread created it, and a loop that is stopped or forgotten
leaves nothing in the hub.

This module decides how to wait; what to do afterwards is asyncio's business.
Read next: `executors.py`.
"""

from __future__ import annotations

import contextlib
import selectors
from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent.os
from gevent import get_hub, monkey
from gevent.hub import Waiter

native_thread: Callable[[], int] = monkey.get_original("_thread", "get_ident")

CLOSING: dict[int, Any] = getattr(gevent.os, "_closing_fd_to_event", {})
"""Descriptors that a patched `os.close()` closes for real after the hub's next poll.

A hub that goes to sleep before that poll (gevent 26.9) never closes them, and the reader of a pipe
never sees its end. So while there are any, `select()` polls instead of sleeping.
"""

EITHER = selectors.EVENT_READ | selectors.EVENT_WRITE

SLICE = 0.001
"""Seconds that a busy loop runs before descriptors are polled and other greenlets run."""


class HubSelector(selectors._BaseSelectorImpl):
    """A selector whose `select()` blocks only the greenlet that calls it.

    Registration and its errors are the standard library's. `occupied`: another greenlet runs a
    callback of the loop (`HubLoop.run_inline`); `select()` does not return before that has ended.
    `held`: `select()` would have returned meanwhile, and must be woken afterwards. `waiter`: what
    `select()` waits on, None while it does not wait.
    """

    _fd_to_key: dict[int, selectors.SelectorKey]  # the standard library's, not in its stubs

    def __init__(self) -> None:
        super().__init__()
        self._hub: Any = None
        self._doorbell: Any = None
        self._thread: int | None = None
        self._watchers: dict[int, Any] = {}
        self._ready: dict[int, int] = {}
        self._paused: set[int] = set()
        self.waiter: Waiter | None = None
        self._woken = False
        self._polled = 0.0
        self.occupied = self.held = False

    def start(self) -> None:
        """Start to watch, on the hub of the calling thread."""
        self._thread, self._hub, self._woken = native_thread(), get_hub(), False
        # This watcher also keeps the hub alive: a loop with nothing to do may wait for calls from
        # other threads for ever, and that is no deadlock (gevent's LoopExit).
        self._doorbell = self._hub.loop.async_()
        self._doorbell.start(self.wake)
        for key in self._fd_to_key.values():
            with contextlib.suppress(ValueError):  # closed since, unremoved: epoll forgets it too
                self._watch(key)
        # The first `select(0)` of a run asks the hub: "stop(), then run_forever()" is how programs
        # let asyncio look at its descriptors once. Where there are none, there is nothing to ask.
        self._polled = 0.0 if self._watchers else perf_counter()

    def stop(self) -> None:
        """Stop to watch. What is registered is watched again after the next `start()`."""
        doorbell, self._doorbell, self._hub, self._thread = self._doorbell, None, None, None
        for watcher in (*self._watchers.values(), doorbell):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._watchers.clear()
        self._ready.clear()
        self._paused.clear()

    # -- waiting

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the keys that are ready; wait at most `timeout` seconds (None: without limit)."""
        if timeout is None or timeout > 0:
            if not self._ready:
                self._wait(timeout)
        elif perf_counter() - self._polled > SLICE:
            self._woken = False  # a loop that wakes itself must not starve other greenlets
            self._wait(0)
        while self.occupied:
            self._woken, self.held = False, True
            self._wait(None)
        self._woken = self.held = False
        return self._collect() if self._ready else []

    def _wait(self, timeout: float | None) -> None:
        # First the waiter is set, then `_woken` is read: a signal handler may run between any two
        # lines of this greenlet, and either finds the waiter or is seen by the test.
        self.waiter = waiter = Waiter(self._hub)
        timer = None
        try:
            if CLOSING:
                timeout = 0
            if timeout is not None:
                # Also for 0: a timer fires after the hub has polled the kernel, whereas sleep(0)
                # resumes before that and would keep others waiting for their descriptors.
                timer = self._hub.loop.timer(timeout)
                timer.start(self.wake)
            if not self._woken:
                waiter.get()
                self._polled = perf_counter()
        finally:
            self.waiter = None
            if timer is not None:
                timer.close()

    def wake(self) -> None:
        """End the wait of `select()`. Must be called in the thread in which it waits."""
        if self._woken:
            return
        self._woken = True
        if self.waiter is not None:
            self._hub.loop.run_callback(self.waiter.switch, None)

    def wake_from_anywhere(self) -> None:
        """End the wait of `select()`. May be called in any thread and greenlet."""
        doorbell = self._doorbell
        if native_thread() == self._thread:
            self.wake()
        elif doorbell is not None:  # else the loop does not run, so nothing waits
            doorbell.send()

    # -- watching

    def _watch(self, key: selectors.SelectorKey) -> None:
        # EVENT_READ and EVENT_WRITE have the values of libev's READ and WRITE: 1 and 2.
        try:
            watcher = self._hub.loop.io(key.fd, key.events)
        except OSError as error:
            raise ValueError(f"Invalid file descriptor: {key.fd}") from error
        self._watchers[key.fd] = watcher
        watcher.start(self._on_ready, key.fd, pass_events=True)

    def _on_ready(self, events: int, descriptor: int) -> None:
        # A negative number is an error of libev; asyncio gets it from its read or write.
        self._ready[descriptor] = events if events > 0 else EITHER
        if self.waiter is None or self.occupied:
            # The loop is busy or blocked in a coroutine. Data that it has not read yet must not
            # make the hub spin, so this descriptor is not watched until the loop collects it.
            self._watchers[descriptor].stop()
            self._paused.add(descriptor)
        self.wake()

    def _collect(self) -> list[tuple[selectors.SelectorKey, int]]:
        while self._paused:
            descriptor = self._paused.pop()
            self._watchers[descriptor].start(self._on_ready, descriptor, pass_events=True)
        ready, self._ready = self._ready, {}
        keys = self._fd_to_key
        return [(keys[descriptor], events) for descriptor, events in ready.items()]

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch `fileobj` for `events`: EVENT_READ, EVENT_WRITE. `KeyError` if it is watched."""
        key = super().register(fileobj, events, data)
        if self._hub is not None:
            try:
                self._watch(key)
            except BaseException:
                super().unregister(fileobj)
                raise
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Stop watching `fileobj`. Raises `KeyError` if it is not watched."""
        key = super().unregister(fileobj)
        self._ready.pop(key.fd, None)
        self._paused.discard(key.fd)
        watcher = self._watchers.pop(key.fd, None)
        if watcher is not None:
            watcher.stop()
            watcher.close()
        return key

    def close(self) -> None:
        """Stop watching everything."""
        self.stop()
        super().close()
