"""asyncio on the hub: a loop that is "the running loop" of its greenlet only.

asyncio keeps *the running loop* per native thread, and all greenlets of a thread share it. So in a
gevent process one running loop makes `asyncio.get_running_loop()` succeed in every other greenlet:
Django's ORM raises `SynchronousOnlyOperation` there, `async_to_sync` refuses to run.

The cure is small. gevent tells a greenlet when its turn ends, and lets it go on by a call; at
these two points we take the running loop away and put it back. Other greenlets never see it, and
pay nothing.

This file decides who owns the running loop, and how the loop is woken. Waiting is
`loop/selector.py`'s business; which greenlet runs synchronous code is `loop/executors.py`'s.

Taught in notebooks/06_asyncio_on_the_hub.ipynb.
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
from thyme.loop.running import Turns
from thyme.loop.selector import HubSelector

Scheduled = tuple[Callable[..., Any], tuple[Any, ...], contextvars.Context]

NOTHING: Scheduled = (lambda: None, (), contextvars.Context())
"""What a step does when nothing is scheduled for it."""

_Base: Any = asyncio.SelectorEventLoop  # of which we use parts that its type stubs leave out


class HubLoop(_Base):
    """asyncio's event loop, waiting on gevent's hub; several may run in one thread.

    It is asyncio's own loop: tasks, transports and streams are the standard library's. Ours are
    the waiting (`HubSelector`), the waking, where it runs, and who hears of a child's end.
    """

    on_gevent = True
    """That waiting in this loop lets other greenlets run: gredis asks, to choose its driver."""

    _default_executor: Executor | None

    def __init__(self) -> None:
        self._waiting = HubSelector()
        self._greenlet: Any = None
        self._next: Scheduled | None = None
        self._hooks = self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook
        super().__init__(self._waiting)

    def run_forever(self) -> None:
        """Run until `stop()`, in the calling greenlet; other greenlets run while it waits."""
        self._check_closed()
        self._check_running()
        try:
            self._waiting.start()
            self._greenlet = getcurrent()
            with Turns():
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
        """Give `future` its result or error, if it still waits; from any greenlet of this thread.

        `call_soon_threadsafe` would do the same with a call more for the loop to schedule and run;
        in debug mode it is used, because only the loop's own greenlet may schedule there.
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

    # Lending. Most of what a connection's task waits for comes by that connection's own greenlet:
    # to leave the task's next step to the loop's greenlet would cost a switch there and back.

    def can_lend(self) -> bool:
        """Whether the calling greenlet may have its next callback run by `step()`.

        So it is when the loop waits, in this thread, and has nothing to do; never in debug mode,
        nor with a task factory: an eager one runs a task's first step at once, and schedules none.
        """
        waiting = self._waiting
        return waiting.waiter is not None and not (
            waiting.lent or self._ready or self._debug or self._task_factory
        )

    def step(self, turns: Turns, schedule: Callable[..., Any], argument: Any) -> None:
        """Call `schedule(argument)`, and run what it calls soon in the calling greenlet.

        To be called when `can_lend()` has said so; `turns` are the greenlet's. Until it returns
        the loop runs nothing else, also when the callback blocks; then the rest is the loop's.
        """
        waiting, timers = self._waiting, len(self._scheduled)
        waiting.lent = True
        try:
            self._next = NOTHING
            schedule(argument)
            (callback, arguments, context), self._next = self._next, None
            with turns:
                events._set_running_loop(self)
                sys.set_asyncgen_hooks(*self._hooks)
                try:
                    context.run(callback, *arguments)
                except Exception as error:  # no task's own: those it keeps
                    message = f"Exception in callback {callback!r}"
                    self.call_exception_handler({"message": message, "exception": error})
        except BaseException:
            self._next = None
            raise
        finally:
            waiting.lent = False
            if self._ready or waiting.held or self._stopping or len(self._scheduled) != timers:
                waiting.wake()

    def call_soon(
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle | None:
        """As asyncio's; but a step takes what was scheduled for it, and needs no handle."""
        if self._next is NOTHING and context is not None:
            self._next = callback, args, context
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

    # What a patched process does otherwise: "threads" are greenlets, children are gevent's.

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
        """As asyncio's; in a patched process gevent says when the child has ended.

        `subprocess.Popen` is gevent's there, and libev collects every child of the process as soon
        as it ends. asyncio's own watchers (a thread in `waitpid`, a pidfd) would come too late.
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
    """Reports the outcome of a job to a future of a loop.

    What `asyncio.wrap_future` does for `concurrent.futures.Future`, whose locks are for threads.
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
    """Whether gevent has patched this module of the standard library, so that waiting yields."""
    return bool(monkey.is_module_patched(module))


_Policy: Any = getattr(unix_events, "_DefaultEventLoopPolicy", None)  # its name since 3.14
_Policy = _Policy or unix_events.DefaultEventLoopPolicy


class HubLoopPolicy(_Policy):
    """The event loop policy that makes a `HubLoop` wherever asyncio or asgiref want a new loop."""

    _loop_factory = HubLoop


def install() -> None:
    """From now on every loop that `asyncio.run` or asgiref make in this process is a `HubLoop`.

    One call, in a monkey-patched process, before the first loop is made:

    >>> from gevent import monkey; monkey.patch_all()
    >>> import thyme.loop; thyme.loop.install()

    A loop that a program makes by name, as in `asyncio.SelectorEventLoop()`, stays asyncio's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.14 deprecates policies, until 3.16
        asyncio.set_event_loop_policy(HubLoopPolicy())
