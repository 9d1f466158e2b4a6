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
import inspect
import signal
import sys
import warnings
from asyncio import events, unix_events
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import gevent
from gevent import monkey

from thyme.executors import GreenletExecutor
from thyme.selector import HubSelector


# Up to 3.13 the current task is kept per loop and needs no care.
_swap_current_task: Any = None
if sys.version_info >= (3, 14):
    _swap_current_task = asyncio.tasks._swap_current_task


class ThreadState(NamedTuple):
    """All that asyncio keeps per native thread, and so would show to every greenlet of it."""

    loop: asyncio.AbstractEventLoop | None = None
    task: asyncio.Task[Any] | None = None
    generator_hooks: tuple[Any, ...] = (None, None)
    origin_depth: int = 0

    @classmethod
    def take(cls) -> ThreadState:
        """What is there now. From Python 3.14 on the current task is taken away: see `put`."""
        loop, task = events._get_running_loop(), None
        if loop is not None and _swap_current_task is not None:
            task = _swap_current_task(loop, None)
        depth = sys.get_coroutine_origin_tracking_depth()
        return cls(loop, task, sys.get_asyncgen_hooks(), depth)

    def put(self) -> None:
        """Put it there; the current task has to be that of the loop, or none."""
        events._set_running_loop(self.loop)
        if self.task is not None:
            _swap_current_task(self.loop, self.task)
        sys.set_asyncgen_hooks(*self.generator_hooks)
        sys.set_coroutine_origin_tracking_depth(self.origin_depth)


class LoopGreenlet(gevent.Greenlet):
    """A greenlet in which one loop runs; its thread's state is asyncio's only while it runs.

    Other greenlets find the thread as they left it: usually without a running loop, and in a
    Jupyter kernel, say, with the kernel's own.
    """

    def __init__(self, run_loop: Callable[[], None]) -> None:
        super().__init__()
        self.run_loop = run_loop
        self.error: BaseException | None = None
        self.inside = self.outside = ThreadState()

    def _run(self) -> None:
        """Keeps the loop's error for `HubLoop.run_forever`, which raises it in its caller."""
        try:
            self.run_loop()
        except BaseException as error:
            self.error = error
        finally:
            self.outside.put()

    def switch(self, *args: Any) -> Any:
        """Called by gevent to let this greenlet go on."""
        self._enter()
        return super().switch(*args)

    def throw(self, *args: Any) -> Any:
        """Called by gevent to raise an exception in this greenlet."""
        self._enter()
        return super().throw(*args)

    def _enter(self) -> None:
        self.outside = ThreadState.take()
        self.inside.put()

    def switch_out(self) -> None:
        """Called by gevent each time this greenlet yields to the hub."""
        self.inside = ThreadState.take()
        self.outside.put()


_Base: Any = asyncio.SelectorEventLoop  # of which we use parts that its type stubs leave out


class HubLoop(_Base):
    """asyncio's event loop, waiting on gevent's hub; several may run in one thread.

    It is asyncio's own loop: tasks, transports and streams are the standard library's. Ours are
    the waiting (`HubSelector`), the waking, where it runs, and who hears of a child's end.
    """

    on_gevent = True
    """That waiting in this loop lets other greenlets run: gredis asks, to choose its driver."""

    def __init__(self) -> None:
        self._waiting = HubSelector()
        super().__init__(self._waiting)

    def run_forever(self) -> None:
        """Run until `stop()`, in a greenlet of its own; the calling greenlet waits for it."""
        self._check_closed()
        self._check_running()
        greenlet = LoopGreenlet(self._run)
        greenlet.start()
        try:
            greenlet.join()
        except BaseException as error:
            # Something was thrown at the caller (a gevent.Timeout, a kill): the loop gets it, as
            # if it had run here.
            self.stop()
            greenlet.kill(error)
            raise
        if greenlet.error is not None:
            try:
                raise greenlet.error
            finally:
                del greenlet  # it and the traceback of its error would hold each other

    def _run(self) -> None:
        self._check_running()  # again: another greenlet may have been first
        self._waiting.start()
        try:
            super().run_forever()
        finally:
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

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """As asyncio's, but Python's own handler wakes the loop, not a wake-up descriptor."""
        if asyncio.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
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

    # What a patched process does otherwise: "threads" are greenlets, children are gevent's.

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As asyncio's; in a patched process the default executor's "threads" are greenlets."""
        if executor is None and self._default_executor is None and patched():
            self._default_executor = GreenletExecutor()
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        return future

    async def _make_subprocess_transport(
        self, protocol: Any, *args: Any, extra: Any = None, **options: Any
    ) -> asyncio.SubprocessTransport:
        """As asyncio's; in a patched process gevent says when the child has ended.

        `subprocess.Popen` is gevent's there, and libev collects every child of the process as soon
        as it ends. asyncio's own watchers (a thread in `waitpid`, a pidfd) would come too late.
        """
        if not patched("subprocess"):
            return await super()._make_subprocess_transport(protocol, *args, extra=extra, **options)
        started = self.create_future()
        transport: Any = unix_events._UnixSubprocessTransport(
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
