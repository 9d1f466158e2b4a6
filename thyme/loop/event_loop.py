"""asyncio's event loop on gevent's hub.

The loop is asyncio's own: tasks, transports and streams are the standard library's. Replaced are
the waiting (`selector.py`), the waking, the executors (`executors.py`), how child processes are
watched, and the visibility of the running loop, which is confined to the loop's greenlet
(`running.py`). The methods of asyncio that are overridden are listed, with the versions they were
tried with, in `thyme/replaced.py`.

Taught in notebooks/06_asyncio_on_the_hub.ipynb. Read next: `selector.py`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import errno
import inspect
import signal
import sys
import warnings
from asyncio import events, unix_events
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from gevent import getcurrent, monkey

from thyme.loop.executors import OURS, GreenletExecutor
from thyme.loop.running import RunningLoopContext
from thyme.loop.selector import HubSelector
from thyme.replaced import check

Scheduled = tuple[Callable[..., Any], tuple[Any, ...], contextvars.Context]

EMPTY: Scheduled = (lambda: None, (), contextvars.Context())
"""A no-op: what `run_inline` runs if nothing gets scheduled."""

_Base: Any = asyncio.SelectorEventLoop  # of which we use parts that its type stubs leave out


class HubLoop(_Base):
    """asyncio's event loop, waiting on gevent's hub. Several may run in one thread."""

    on_gevent = True
    """Waiting in this loop lets other greenlets run. gredis reads this to choose its driver."""

    _default_executor: Executor | None

    def __init__(self) -> None:
        self._waiting = HubSelector()
        self._greenlet: Any = None
        self._inline: Scheduled | None = None
        self._hooks = self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook
        super().__init__(self._waiting)

    def run_forever(self) -> None:
        """Run until `stop()`, in the calling greenlet; other greenlets run while it waits."""
        self._check_closed()
        self._check_running()
        try:
            self._waiting.start()
            self._greenlet = getcurrent()
            with RunningLoopContext():
                super().run_forever()
        finally:
            self._greenlet = None
            self._waiting.stop()

    # Waking. asyncio writes a byte into a pair of sockets to wake its selector; the hub needs
    # none, so there is none.

    def _make_self_pipe(self) -> None:
        self._internal_fds += 1

    def _close_self_pipe(self) -> None:
        self._internal_fds -= 1

    def _write_to_self(self) -> None:
        """Wake the selector; called by `call_soon_threadsafe`, from any thread or greenlet."""
        self._waiting.wake_from_anywhere()

    def settle(
        self, future: asyncio.Future[Any], result: Any = None, error: BaseException | None = None
    ) -> None:
        """Set the result or error of `future`, unless it is done; from any greenlet of this thread.

        `call_soon_threadsafe` would do the same with one more callback to schedule and run. It is
        used in debug mode, where only the loop's own greenlet may schedule.
        """
        if self.get_debug() and getcurrent() is not self._greenlet:
            self.call_soon_threadsafe(self.settle, future, result, error)
        elif future.done():
            pass
        elif error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
        self._waiting.wake()

    # Running inline. A callback of the loop may run in another greenlet of this thread, in place of
    # the loop's own, while the loop waits and has nothing else to do. A connection's greenlet does
    # that with the next step of its task when it has received an event for it: to leave the step to
    # the loop's greenlet would cost a switch there and another back.

    def can_run_inline(self) -> bool:
        """Return whether the calling greenlet may call `run_inline()` now.

        That is so while the loop waits, in this thread, with nothing to do; never in debug mode,
        nor with a task factory: an eager one runs a task's first step itself and schedules nothing.
        """
        waiting = self._waiting
        return waiting.waiter is not None and not (
            waiting.occupied or self._ready or self._debug or self._task_factory
        )

    def run_inline(
        self, context: RunningLoopContext, schedule: Callable[..., Any], argument: Any
    ) -> None:
        """Call `schedule(argument)`, and run the callback that it schedules in this greenlet.

        Call this only when `can_run_inline()` is true; `context` is the calling greenlet's. Until
        this returns the loop runs nothing else, even if the callback blocks. What that callback
        schedules in turn is left to the loop.
        """
        waiting, timers = self._waiting, len(self._scheduled)
        waiting.occupied = True
        try:
            self._inline = EMPTY
            schedule(argument)
            (callback, arguments, variables), self._inline = self._inline, None
            with context:
                events._set_running_loop(self)
                sys.set_asyncgen_hooks(*self._hooks)
                try:
                    variables.run(callback, *arguments)
                except Exception as error:  # a callback's; a task keeps its own errors
                    message = f"Exception in callback {callback!r}"
                    self.call_exception_handler({"message": message, "exception": error})
        except BaseException:
            self._inline = None
            raise
        finally:
            waiting.occupied = False
            if self._ready or waiting.held or self._stopping or len(self._scheduled) != timers:
                waiting.wake()

    def call_soon(
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle | None:
        """As asyncio's; `run_inline` takes the first callback itself, without a handle."""
        if self._inline is EMPTY and context is not None:
            self._inline = callback, args, context
            return None
        handle: asyncio.Handle = super().call_soon(callback, *args, context=context)
        return handle

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """As asyncio's, but Python's own handler wakes the loop, not a wake-up descriptor."""
        if asyncio.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            signal.signal(sig, lambda number, frame: self._handle_signal(number))
            signal.siginterrupt(sig, False)
        except ValueError as error:  # not the main thread
            raise RuntimeError(str(error)) from error
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise RuntimeError(f"sig {sig} cannot be caught") from error
        self._signal_handlers[sig] = asyncio.Handle(callback, args, self, None)

    # In a patched process "threads" are greenlets, and child processes are gevent's.

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As asyncio's; in a patched process the default executor's "threads" are greenlets."""
        if executor is None:
            if self._default_executor is None and patched():
                self._default_executor = GreenletExecutor()
            executor = self._default_executor
            self._check_default_executor()
        if not isinstance(executor, OURS):
            future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
            return future
        self._check_closed()
        if self.get_debug():
            self._check_callback(func, "run_in_executor")
        future = self.create_future()
        executor.start(_Awaited(self, future), partial(func, *args))
        return future

    async def _make_subprocess_transport(
        self, protocol: Any, *args: Any, extra: Any = None, **options: Any
    ) -> Any:
        """As asyncio's; in a patched process, gevent reports the exit of the child.

        `subprocess.Popen` is gevent's there, and libev reaps every child of the process as soon as
        it exits. asyncio's own watchers (a thread in `waitpid`, a pidfd) would come too late.
        """
        if not patched("subprocess"):
            return await super()._make_subprocess_transport(protocol, *args, extra=extra, **options)
        started = self.create_future()
        transport = unix_events._UnixSubprocessTransport(  # type: ignore[attr-defined]
            self, protocol, *args, waiter=started, extra=extra, **options
        )
        transport._proc.rawlink(lambda child: self._child_ended(child.returncode, transport))
        try:
            await started
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _child_ended(self, code: int, transport: Any) -> None:
        if not self.is_closed():
            self.call_soon_threadsafe(transport._process_exited, code)


class _Awaited:
    """Report the outcome of an executor's job to a future of a loop.

    Does what `asyncio.wrap_future` does, without the locks of `concurrent.futures.Future`, which
    are for threads.
    """

    __slots__ = ("future", "loop")

    def __init__(self, loop: HubLoop, future: asyncio.Future[Any]) -> None:
        self.loop = loop
        self.future = future

    def set_running_or_notify_cancel(self) -> bool:
        return not self.future.cancelled()

    def set_result(self, result: Any) -> None:
        if not self.loop.is_closed():
            self.loop.settle(self.future, result)

    def set_exception(self, error: BaseException) -> None:
        if isinstance(error, StopIteration):  # a future refuses it
            error = RuntimeError("the function raised StopIteration")
        elif isinstance(
            error, concurrent.futures.CancelledError
        ):  # not the same class as asyncio's
            error = asyncio.CancelledError(*error.args)
        if not self.loop.is_closed():
            self.loop.settle(self.future, error=error)

    def cancel(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.future.cancel)


def patched(module: str = "threading") -> bool:
    """Return whether gevent has patched this module of the standard library."""
    return bool(monkey.is_module_patched(module))


_Policy: Any = getattr(unix_events, "_DefaultEventLoopPolicy", None)  # its name since 3.14
_Policy = _Policy or unix_events.DefaultEventLoopPolicy


class HubLoopPolicy(_Policy):
    """An event loop policy that creates a `HubLoop` wherever asyncio or asgiref create a loop."""

    _loop_factory = HubLoop


def install() -> None:
    """Make every loop that `asyncio.run` or asgiref create in this process a `HubLoop`.

    Call it once, in a monkey-patched process, before the first loop is created:

    >>> from gevent import monkey; monkey.patch_all()
    >>> import thyme.loop; thyme.loop.install()

    Raises `thyme.errors.Incompatible` when a name of asyncio, gevent or asgiref that the loop
    depends on has disappeared (`thyme/replaced.py`).

    A loop that is created by name, as in `asyncio.SelectorEventLoop()`, stays asyncio's.
    """
    check("asyncio", "gevent", "asgiref")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.14 deprecates policies, until 3.16
        asyncio.set_event_loop_policy(HubLoopPolicy())
