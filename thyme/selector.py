"""A selector on gevent's hub: how `loop.py` waits without holding up other greenlets.

asyncio's loop asks a selector which file descriptors are ready, and blocks in that question while
it has nothing to do. Here the question blocks one greenlet: descriptors are watched by the hub,
and other greenlets run meanwhile. A call from the same thread wakes it directly, without a
self-pipe and its three system calls; another native thread wakes it through one of the hub's
`async` watchers.

It decides how to wait. What to do afterwards is asyncio's business.
"""

from __future__ import annotations

import selectors
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import gevent
from gevent.hub import Waiter

SLICE = 0.001
"""Seconds for which a busy loop may go on before other greenlets get a turn (fairness)."""


class HubSelector(selectors.BaseSelector):
    """`selectors.BaseSelector` whose `select()` blocks only the greenlet that calls it.

    Belongs to the hub (so to the native thread) in which it was made.
    """

    def __init__(self) -> None:
        self.hub = gevent.get_hub()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._watchers: dict[int, Any] = {}
        self._ready: dict[int, int] = {}
        self._woken = False
        self._waiter: Waiter | None = None
        self._yielded = perf_counter()
        self._doorbell = self.hub.loop.async_()
        self._doorbell.start(self.wake)

    def wake(self) -> None:
        """End the wait of `select()`; to be called in the hub's own thread, in any greenlet."""
        self._woken = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self.hub.loop.run_callback(waiter.switch, None)

    def wake_from_thread(self) -> None:
        """End the wait of `select()`; to be called in any native thread."""
        self._doorbell.send()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """The keys that are ready, after at most `timeout` seconds (None: as long as it takes)."""
        if (timeout is not None and timeout <= 0) or self._ready or self._woken:
            self._take_turns()
        else:
            self._wait(timeout)
        self._woken = False
        return self._collect()

    def _take_turns(self) -> None:
        if perf_counter() - self._yielded > SLICE:
            gevent.sleep(0)
            self._yielded = perf_counter()

    def _wait(self, timeout: float | None) -> None:
        self._waiter = waiter = Waiter(self.hub)
        timer = None
        if timeout is not None:
            timer = self.hub.loop.timer(timeout)
            timer.start(self.wake)
        try:
            waiter.get()
        finally:
            self._waiter = None
            if timer is not None:
                timer.close()
        self._yielded = perf_counter()

    def _collect(self) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._ready:
            return []
        ready, self._ready = self._ready, {}
        found = []
        for descriptor, events in ready.items():
            key = self._keys[descriptor]
            found.append((key, events & key.events))
            # Watched again from here on: what asyncio leaves unread is reported once more.
            self._watch(descriptor)
        return found

    def _watch(self, descriptor: int) -> None:
        self._watchers[descriptor].start(self._on_ready, descriptor, pass_events=True)

    def _on_ready(self, events: int, descriptor: int) -> None:
        # Stopped until collected: data that nobody has read yet must not spin the hub.
        self._watchers[descriptor].stop()
        key = self._keys[descriptor]
        # A negative number is libev's error; asyncio learns it from the read or write itself.
        self._ready[descriptor] = key.events if events < 0 else events
        self.wake()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch `fileobj` for `events` (EVENT_READ, EVENT_WRITE); KeyError when it is watched."""
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        key = selectors.SelectorKey(fileobj, self._descriptor(fileobj), events, data)
        if key.fd in self._keys:
            raise KeyError(f"{fileobj!r} (FD {key.fd}) is already registered")
        # EVENT_READ and EVENT_WRITE have the values of libev's READ and WRITE: 1 and 2.
        try:
            self._watchers[key.fd] = self.hub.loop.io(key.fd, events)
        except OSError as error:
            raise ValueError(f"Invalid file descriptor: {key.fd}") from error
        self._keys[key.fd] = key
        self._watch(key.fd)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Watch `fileobj` no longer; KeyError when it was not watched."""
        descriptor = self._descriptor(fileobj)
        if descriptor not in self._keys:
            raise KeyError(f"{fileobj!r} is not registered")
        self._ready.pop(descriptor, None)
        watcher = self._watchers.pop(descriptor)
        watcher.stop()
        watcher.close()
        return self._keys.pop(descriptor)

    def _descriptor(self, fileobj: Any) -> int:
        if isinstance(fileobj, int):
            descriptor = fileobj
        else:
            try:
                descriptor = int(fileobj.fileno())
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(f"Invalid file object: {fileobj!r}") from error
        if descriptor >= 0:
            return descriptor
        # A closed file object no longer knows its number: find it by identity.
        for key in self._keys.values():
            if key.fileobj is fileobj:
                return key.fd
        raise ValueError(f"Invalid file descriptor: {descriptor}")

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """The watched keys by descriptor."""
        return self._keys

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """The key of a watched file object; KeyError when it is not watched."""
        try:
            return self._keys[self._descriptor(fileobj)]
        except ValueError as error:
            raise KeyError(f"{fileobj!r} is not registered") from error

    def close(self) -> None:
        """Stop watching everything."""
        for watcher in (*self._watchers.values(), self._doorbell):
            watcher.stop()
            watcher.close()
        self._watchers.clear()
        self._keys.clear()
        self._ready.clear()
