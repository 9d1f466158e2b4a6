"""Executors whose "threads" are greenlets, for `run_in_executor` and asgiref's `sync_to_async`.

They decide in which greenlet synchronous code runs, and in what order; `loop/event_loop.py` and
`loading.py` decide who uses which. Blocking code in them is cooperative only in a
monkey-patched process (or when it uses gevent openly).
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
    """What a job reports to: a `concurrent.futures.Future`, or something lighter of a loop's."""

    def set_running_or_notify_cancel(self) -> bool:
        """The job is about to run; False when nobody wants it any more."""

    def set_result(self, result: Any, /) -> None:
        """It has ended, with this result."""

    def set_exception(self, error: BaseException, /) -> None:
        """It has ended, with this error."""

    def cancel(self) -> object:
        """It will never run."""


def _run(future: Outcome, call: Callable[[], Any]) -> None:
    """Do one job and settle its future, as `concurrent.futures` workers do."""
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
    """One greenlet, one job after the other: the "thread" of one connection.

    The greenlet starts with the first job and lives until `shutdown()`, so that what a job leaves
    in greenlet-local storage (Django's database connections) is there for the next.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue | None = None  # made with the greenlet: most are never used
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
            raise RuntimeError("the connection of this executor has ended: it takes no more calls")
        if self._jobs is None:
            self._jobs = SimpleQueue()
            self.greenlet = gevent.spawn(self._work, self._jobs)
        self._jobs.put((outcome, call))

    def _work(self, jobs: SimpleQueue) -> None:
        try:
            for future, call in iter(jobs.get, None):
                _run(future, call)
                del future, call  # the next job may be long in coming
        finally:  # also when somebody kills this greenlet: nobody waits for it in vain
            self._closed = True
            self._cancel()

    def _cancel(self) -> None:
        while self._jobs is not None and not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job[0].cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish what is queued (or cancel it), then end the greenlet."""
        self._closed = True
        if cancel_futures:
            self._cancel()
        if self._jobs is not None:
            self._jobs.put(None)
        if wait and self.greenlet is not None:
            self.greenlet.join()


class ConnectionExecutor(Executor):
    """The `SerialExecutor` of whichever connection asks: in whose context that is done.

    So asgiref can be told once, and not for each connection, where synchronous code is to run.
    """

    current: ClassVar[ContextVar[SerialExecutor]] = ContextVar("current")

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """As `SerialExecutor.submit`."""
        return self.current.get().submit(fn, *args, **kwargs)

    def start(self, outcome: Outcome, call: Callable[[], Any]) -> None:
        """As `SerialExecutor.start`."""
        self.current.get().start(outcome, call)


class GreenletExecutor(Executor):
    """A greenlet per job, all at the same time: a loop's default executor in a patched process."""

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
        """Take no more jobs; by default wait for those that run."""
        self._closed = True
        if wait:
            gevent.joinall(list(self._greenlets))


OURS = (SerialExecutor, ConnectionExecutor, GreenletExecutor)
"""Those that can report to something lighter than a `concurrent.futures.Future`."""
