"""Restart on source changes, for development (`--reload`).

The operating system reports changed files to watchfiles (inotify on Linux, FSEvents on macOS).
Its `watch()` blocks a thread, so it runs in gevent's thread pool: a real thread, in a patched
process too, for which one greenlet waits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import gevent
import watchfiles
from gevent.event import Event

STEP_MILLISECONDS = 200
"""Changes that follow each other within this time are one change. Also the time to stop."""

_LOGGER = logging.getLogger("thyme")


class Reloader:
    """Calls `on_change` whenever Python files below `folder` have changed.

    `start()` before the files are imported, so that no change is missed; then `stop()`.
    """

    def __init__(self, folder: Path, on_change: Callable[[], None]) -> None:
        self._folder = folder
        self._on_change = on_change
        self._changed = Event()
        self._stopping = threading.Event()
        self._watching = gevent.Greenlet(self._watch)
        self._calling = gevent.Greenlet(self._call)

    def start(self) -> None:
        """Start watching, in a thread."""
        self._watching.start()
        self._calling.start()

    def stop(self) -> None:
        """Stop watching; return when the thread is idle.

        A thread inside watchfiles must not live on when the interpreter is finalized. A call of
        `on_change` that is in progress is not waited for.
        """
        self._stopping.set()
        self._watching.join()
        self._calling.kill(block=False)

    def _call(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            self._on_change()

    def _watch(self) -> None:
        changes = watchfiles.watch(
            self._folder,
            watch_filter=self._is_source,
            step=STEP_MILLISECONDS,
            stop_event=self._stopping,
            rust_timeout=0,  # none
            raise_interrupt=False,
        )
        pool = gevent.get_hub().threadpool
        try:
            while pool.apply(next, (changes, None)):
                self._changed.set()
        except (OSError, RuntimeError) as error:  # such as the limit on inotify watches
            _LOGGER.error("cannot watch %s for changes: %s", self._folder, error)

    def _is_source(self, change: watchfiles.Change, path: str) -> bool:
        """Return True for Python files outside hidden folders (environments, caches)."""
        folders = Path(path).relative_to(self._folder).parts[:-1]
        return path.endswith(".py") and not any(each.startswith((".", "__")) for each in folders)
