"""Executors whose "threads" are greenlets, for `run_in_executor` and asgiref's `sync_to_async`.

They decide in which greenlet synchronous code runs, and in what order; `event_loop.py` and
`bridge.py` decide which of them is used. Blocking code in them is cooperative only in a
monkey-patched process (or when it uses gevent's own functions).

Read next: `shared.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import gevent
from gevent.queue import SimpleQueue

Result = TypeVar("Result")


class Outcome(Protocol):
    """The receiver of a job's result: a `concurrent.futures.Future`, or something lighter."""

    def set_running_or_notify_cancel(self) -> bool:
        """Note that the job is about to run; return False if it has been cancelled."""

    def set_result(self, result: Any, /) -> None:
        """Note the job's result."""

    def set_exception(self, error: BaseException, /) -> None:
        """Note the job's error."""

    def cancel(self) -> object:
        """Note that the job will never run."""


def _run(future: Outcome, call: Callable[[], Any]) -> None:
    """Run one job and report its outcome, as workers of `concurrent.futures` do."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
        if isinstance(error, gevent.GreenletExit):
            raise
    else:
        future.set_result(result)


class SerialExecutor(Executor):
    """One greenlet that runs one job after the other: the "thread" of one connection.

    The greenlet starts with the first job and lives until `shutdown()`, so greenlet-local storage
    (Django's database connections) carries over from one job to the next.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue | None = None  # created with the greenlet, if ever
        self.greenlet: gevent.Greenlet | None = None
        self._closed = False

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Queue `fn(*args, **kwargs)`; raises `RuntimeError` after `shutdown()`."""
        future: Future[Result] = Future()
        self.start(future, partial(fn, *args, **kwargs))
        return future

    def start(self, outcome: Outcome, call: Callable[[], Any]) -> None:
        """Queue `call()`, which reports to `outcome`; raises `RuntimeError` after `shutdown()`."""
        if self._closed:
            raise RuntimeError(
                "the connection of this executor has ended; it accepts no more calls"
            )
        if self._jobs is None:
            self._jobs = SimpleQueue()
            self.greenlet = gevent.spawn(self._work, self._jobs)
        self._jobs.put((outcome, call))

    def _work(self, jobs: SimpleQueue) -> None:
        try:
            for future, call in iter(jobs.get, None):
                _run(future, call)
                del future, call  # the next job may not come for hours
        finally:  # also when this greenlet is killed, or its jobs would wait for ever
            self._closed = True
            self._cancel()

    def _cancel(self) -> None:
        while self._jobs is not None and not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job[0].cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Run the queued jobs (or cancel them), then end the greenlet."""
        self._closed = True
        if cancel_futures:
            self._cancel()
        if self._jobs is not None:
            self._jobs.put(None)
        if wait and self.greenlet is not None:
            self.greenlet.join()


class ConnectionExecutor(Executor):
    """Delegates to the `SerialExecutor` of the connection in whose context it is called.

    So asgiref is given one executor once, instead of one for each connection.
    """

    current: ClassVar[ContextVar[SerialExecutor]] = ContextVar("current")

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """As `SerialExecutor.submit`."""
        return self.current.get().submit(fn, *args, **kwargs)

    def start(self, outcome: Outcome, call: Callable[[], Any]) -> None:
        """As `SerialExecutor.start`."""
        self.current.get().start(outcome, call)


class GreenletExecutor(Executor):
    """A greenlet per job, all concurrent: a loop's default executor in a patched process."""

    def __init__(self) -> None:
        self._greenlets: set[gevent.Greenlet] = set()
        self._closed = False

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Start `fn(*args, **kwargs)` in a new greenlet; `RuntimeError` after `shutdown()`."""
        future: Future[Result] = Future()
        self.start(future, partial(fn, *args, **kwargs))
        return future

    def start(self, outcome: Outcome, call: Callable[[], Any]) -> None:
        """Start `call()`, which reports to `outcome`; raises `RuntimeError` after `shutdown()`."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        greenlet = gevent.spawn(_run, outcome, call)
        self._greenlets.add(greenlet)
        greenlet.rawlink(self._greenlets.discard)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more jobs; by default, wait for those that run."""
        self._closed = True
        if wait:
            gevent.joinall(list(self._greenlets))


OURS = (SerialExecutor, ConnectionExecutor, GreenletExecutor)
"""The executors that can report to an `Outcome` lighter than a `concurrent.futures.Future`."""
