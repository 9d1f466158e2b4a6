"""asyncio on the hub: a loop that lives in a greenlet and is "the running loop" there only.

asyncio keeps *the running loop* per native thread, and all greenlets of a thread share it. So in a
gevent process one running loop makes `asyncio.get_running_loop()` succeed in every other greenlet:
Django's ORM raises `SynchronousOnlyOperation` there, `async_to_sync` refuses to run.

The cure is small. A `HubLoop` runs in a `LoopGreenlet`. gevent calls a greenlet's `switch_out()`
each time it yields to the hub, and its `switch()` or `throw()` to let it go on: on the way out we
take the running loop away, on the way in we put it back. Other greenlets never see it, and pay
nothing.

This file decides who owns the running loop, and how the loop is woken. Waiting is `selector.py`'s
business; which greenlet runs synchronous code is `executors.py`'s.

Notebook: 06, asyncio on the hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import warnings
from asyncio import events
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import gevent
from gevent import monkey

from thyme.executors import GreenletExecutor
from thyme.selector import HubSelector

native_thread = monkey.get_original("_thread", "get_ident")
_set_running_loop = events._set_running_loop


class LoopGreenlet(gevent.Greenlet):
    """A greenlet in which one loop runs; outside it, the thread has no running loop.

    What asyncio keeps per thread is put in place on the way in and taken away on the way out: the
    running loop, the hooks for asynchronous generators, and (Python 3.14) the current task. Up to
    3.13 the current task is kept per loop and needs no care.
    """

    def __init__(self, loop: HubLoop, run: Callable[[], None]) -> None:
        super().__init__()
        self.owner = loop
        self.run_loop = run
        self.error: BaseException | None = None
        self.task: asyncio.Task[Any] | None = None
        self.inside: Any = (None, None)
        self.outside: Any = (None, None)

    def _run(self) -> None:
        """Keeps the loop's error for `HubLoop.run_forever`, which raises it in its caller."""
        try:
            self.run_loop()
        except BaseException as error:
            self.error = error

    def switch(self, *args: Any) -> Any:
        """Called by gevent to let this greenlet go on."""
        self._enter()
        return super().switch(*args)

    def throw(self, *args: Any) -> Any:
        """Called by gevent to raise an exception in this greenlet."""
        self._enter()
        return super().throw(*args)

    def switch_out(self) -> None:
        """Called by gevent each time this greenlet yields to the hub."""
        if not self.owner.is_running():
            return
        if sys.version_info >= (3, 14):
            self.task = asyncio.tasks._swap_current_task(self.owner, None)
        _set_running_loop(None)
        self.inside = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(*self.outside)

    def _enter(self) -> None:
        # Before its first switch, and after its end, the loop itself sets and clears all this.
        if not self.owner.is_running():
            self.outside = sys.get_asyncgen_hooks()
            return
        _set_running_loop(self.owner)
        if sys.version_info >= (3, 14):
            asyncio.tasks._swap_current_task(self.owner, self.task)
        self.outside = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(*self.inside)


_Base: Any = asyncio.SelectorEventLoop  # of which we use parts that its type stubs leave out


class HubLoop(_Base):
    """asyncio's event loop, waiting on gevent's hub; several may run in one thread.

    It is asyncio's own loop: tasks, transports, streams and subprocesses are the standard
    library's. Ours are the waiting (`HubSelector`), the waking, and where it runs.
    """

    on_gevent = True
    """That waiting in this loop lets other greenlets run: gredis asks, to choose its driver."""

    def __init__(self) -> None:
        self._default_executor: Executor | None = None
        self._waiting = HubSelector()
        self._native_thread = native_thread()
        super().__init__(self._waiting)

    def run_forever(self) -> None:
        """Run until `stop()`, in a greenlet of its own; the calling greenlet waits for it."""
        self._check_closed()
        self._check_running()
        greenlet = LoopGreenlet(self, super().run_forever)
        greenlet.start()
        try:
            greenlet.join()
        except BaseException as error:
            # Something was thrown at the caller (a gevent.Timeout, a kill): the loop gets it, as
            # if it had run here.
            self.stop()
            self._waiting.wake()
            greenlet.kill(error)
            raise
        if greenlet.error is not None:
            raise greenlet.error

    # Waking. asyncio writes a byte into a pair of sockets to wake its selector; the hub needs
    # none, so there is none.

    def _make_self_pipe(self) -> None:
        self._internal_fds += 1

    def _close_self_pipe(self) -> None:
        self._internal_fds -= 1

    def _write_to_self(self) -> None:
        """Wake the selector; called by `call_soon_threadsafe`, from any thread or greenlet."""
        if self.is_closed():
            return
        if native_thread() == self._native_thread:
            self._waiting.wake()
        else:
            self._waiting.wake_from_thread()

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """As asyncio's, but Python's own handler wakes the loop, not a wake-up descriptor."""
        if asyncio.iscoroutine(callback) or asyncio.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            signal.signal(sig, lambda number, frame: self._handle_signal(number))
        except OSError as error:
            raise RuntimeError(f"sig {sig} cannot be caught") from error
        except ValueError as error:  # not the main thread
            raise RuntimeError(str(error)) from error
        self._signal_handlers[sig] = asyncio.Handle(callback, args, self, None)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As asyncio's; in a patched process the default executor's "threads" are greenlets."""
        default: Executor | None = self._default_executor
        if executor is None and default is None and patched():
            self._default_executor = GreenletExecutor()
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        return future


def patched() -> bool:
    """Whether gevent has patched the standard library of this process, so that waiting yields."""
    return bool(monkey.is_module_patched("threading"))


_Policy: Any = (
    getattr(  # 3.14 renamed it on the way to removing policies
        asyncio.unix_events, "_DefaultEventLoopPolicy", None
    )
    or asyncio.unix_events.DefaultEventLoopPolicy
)


class HubLoopPolicy(_Policy):
    """The event loop policy that makes a `HubLoop` wherever asyncio or asgiref want a new loop."""

    _loop_factory = HubLoop


def install() -> None:
    """From now on every loop that `asyncio.run` or asgiref make in this process is a `HubLoop`.

    One call, in a monkey-patched process, before the first loop is made:

    >>> from gevent import monkey; monkey.patch_all()
    >>> import thyme.loop; thyme.loop.install()
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.14 deprecates policies, until 3.16
        asyncio.set_event_loop_policy(HubLoopPolicy())


_of_this_thread = monkey.get_original("_thread", "_local")()


def shared_loop() -> HubLoop:
    """The loop that all adapted applications of this native thread share; runs from now on."""
    loop: HubLoop | None = getattr(_of_this_thread, "loop", None)
    if loop is None or loop.is_closed():
        loop = _of_this_thread.loop = HubLoop()
        _of_this_thread.greenlet = gevent.spawn(loop.run_forever)
    return loop


def close_shared_loop() -> None:
    """Stop and close the shared loop of this thread, if there is one; its tasks are cancelled."""
    loop: HubLoop | None = getattr(_of_this_thread, "loop", None)
    if loop is None or loop.is_closed():
        return
    _of_this_thread.loop = None
    loop.call_soon_threadsafe(loop.stop)
    _of_this_thread.greenlet.join()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(_cancel_all())
    loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
