"""Several server processes on the same sockets, kept alive; and one that starts anew in place.

The parent binds, and never accepts. Each process inherits the listening sockets (`--bind fd://N`)
and serves like any single one: `python -m thyme` with the same options. A process that ends is
started again (`supervisor/child.py`). To start anew (SIGHUP, or a changed file with --reload) a new
generation is started beside the old one, and only when it is ready the old one is told to stop;
the sockets stay open all the time, so no connection is refused. A generation that cannot start
leaves the old one serving. A single server (no --processes) that gets SIGHUP becomes such a parent:
it hands its sockets over, and finishes what it has in progress.

Started by exec, not fork: a child shares no memory with us, and begins with a clean hub.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gevent
from gevent.lock import Semaphore

from thyme.cli.options import as_arguments
from thyme.config import Config
from thyme.server.listeners import listening, place_name, remove_sockets, tcp_bind
from thyme.supervisor.child import Child, ChildFailed, stop_in_turn

READY = "Thyme listens on "
"""How the line begins with which a process says that it is ready."""

ANY_PORT = "127.0.0.1:0"
"""For the figures of one process, which the parent adds up."""

KILL_AFTER = 3.0
"""Seconds that a process has beyond its drain time, before it is killed."""


class Processes:
    """`start()` binds and starts the processes; `renew()` replaces them, `stop()` ends them.

    `sockets`: where to accept, when somebody listens there already.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        config: Config,
        say: Callable[[str], None],
        sockets: Sequence[Any] = (),
    ) -> None:
        self._options = dict(options)
        self._config = config
        self._say = say
        self._count = max(1, options.get("processes", 1))
        self._sockets = list(sockets)
        self._metrics: list[Any] = []
        self._children: list[Child] = []
        self._starting: list[Child] = []
        self._leaving: gevent.Greenlet | None = None
        self._turn = Semaphore()
        self._stopping = False
        self.places: list[str] = []

    def start(self) -> None:
        """Raises `OSError` when a place cannot be had, `ChildFailed` when no process can start."""
        config = self._config
        if not self._sockets:
            binds = config.binds or (tcp_bind(config.host, config.port),)
            self._sockets = [listening(bind, config.backlog) for bind in binds]
        if self._options.get("metrics"):
            self._metrics = [listening(ANY_PORT, config.backlog) for _ in range(self._count)]
        secure = config.certificate is not None
        self.places = [place_name(each, secure=secure) for each in self._sockets]
        self._children = self._generation()

    @property
    def metrics_places(self) -> list[tuple[str, int]]:
        """Where each process tells how it does, on loopback; `status.Gathered` asks there."""
        return [each.getsockname() for each in self._metrics]

    def renew(self) -> None:
        """Put a new generation in the place of the one that serves."""
        with self._turn:
            if self._stopping:
                return
            try:
                new = self._generation()
            except ChildFailed as problem:
                if not self._stopping:
                    self._say(f"{problem} The old processes go on.")
                return
            if self._stopping:
                return  # the new ones were ended with the rest
            old, self._children = self._children, new
        self._leaving = gevent.spawn(stop_in_turn, [old])
        self._leaving.join()

    def stop(self) -> None:
        """End all of them, in order: also those that are only just starting."""
        self._stopping = True
        self.let_go()
        remove_sockets(self._config.binds)
        stop_in_turn([self._children + self._starting])
        if self._leaving is not None:
            self._leaving.join()  # or nobody would wait for those who were being replaced

    def let_go(self) -> None:
        """Close our copies of the sockets, which others may go on using."""
        for each in self._sockets + self._metrics:
            each.close()

    def _generation(self) -> list[Child]:
        starting = self._starting = [self._child(index) for index in range(self._count)]
        for child in starting:
            child.start()
        try:
            for child in starting:
                child.ready()
        except ChildFailed:
            stop_in_turn([starting])
            raise
        finally:
            self._starting = []
        return starting

    def _child(self, index: int) -> Child:
        own = self._metrics[index : index + 1]
        descriptors = [each.fileno() for each in self._sockets + own]
        said = {
            **{name: self._options[name] for name in self._options if name not in _PLACES},
            "bind": [f"fd://{each.fileno()}" for each in self._sockets],
            "processes": 0,
            "reload": False,
            "stop_on_eof": True,
        }
        if own:
            said["metrics"] = f"fd://{own[0].fileno()}"
        command = [sys.executable, "-m", "thyme", *as_arguments(said)]
        grace = self._config.drain_seconds + KILL_AFTER
        name = f"Process {index + 1}"
        return Child(name, command, READY, Path.cwd(), self._say, grace=grace, inherits=descriptors)


_PLACES = frozenset({"host", "port", "metrics"})
