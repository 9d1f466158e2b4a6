"""Several server processes on shared sockets: supervised, and restarted without downtime.

The parent binds the sockets and never accepts. Each process inherits them (`--bind fd://N`) and is
an ordinary `python -m thyme` with the same options. A process that exits is restarted
(`supervisor/child.py`).

A restart (SIGHUP, or a changed file with --reload) starts a new generation of processes beside the
old one. Only when the new generation is ready is the old one stopped; the sockets stay open
throughout, so no connection is refused. If the new generation cannot start, the old one continues.
A single server (without --processes) that receives SIGHUP becomes such a parent: it hands its
sockets over and finishes its own requests.

Processes are started by exec, not fork, so they share no memory and begin with a fresh hub.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gevent
from gevent.lock import Semaphore

from thyme.cli.options import to_arguments
from thyme.config import Config
from thyme.server.listeners import listener_url, open_listener, remove_socket_files, tcp_bind
from thyme.supervisor import READY
from thyme.supervisor.child import Child, ChildFailed, stop_in_order

METRICS_BIND = "127.0.0.1:0"
"""Where each process serves its own status, which the parent combines: any free port."""

KILL_AFTER = 3.0
"""Seconds after its drain time that a process is killed."""

REPLACED_OPTIONS = frozenset({"host", "port", "metrics"})
"""Options that a process does not get from its parent: the parent binds."""


class Processes:
    """Server processes: `start()` binds and starts them, `restart()` replaces them, `stop()`.

    `sockets`: listening sockets to use, instead of binding new ones.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        config: Config,
        log: Callable[[str], None],
        sockets: Sequence[Any] = (),
    ) -> None:
        self._options = dict(options)
        self._config = config
        self._log = log
        self._count = max(1, options.get("processes", 1))
        self._sockets = list(sockets)
        self._metrics_sockets: list[Any] = []
        self._children: list[Child] = []
        self._starting: list[Child] = []
        self._retiring: gevent.Greenlet | None = None
        self._lock = Semaphore()  # one generation starts at a time
        self._stopping = False
        self.urls: list[str] = []

    def start(self) -> None:
        """Bind, and start the first generation.

        Raises `OSError` if an address is not available, `ChildFailed` if a process cannot start.
        """
        config = self._config
        if not self._sockets:
            binds = config.binds or (tcp_bind(config.host, config.port),)
            self._sockets = [open_listener(bind, config.backlog) for bind in binds]
        if self._options.get("metrics"):
            self._metrics_sockets = [
                open_listener(METRICS_BIND, config.backlog) for _ in range(self._count)
            ]
        secure = config.certificate is not None
        self.urls = [listener_url(each, secure=secure) for each in self._sockets]
        with self._lock:
            self._children = self._start_generation()

    @property
    def status_addresses(self) -> list[tuple[str, int]]:
        """The loopback address of each process's own status, for a `CombinedStatus`."""
        return [each.getsockname() for each in self._metrics_sockets]

    def restart(self) -> None:
        """Replace the running generation by a new one."""
        with self._lock:
            if self._stopping:
                return
            try:
                new = self._start_generation()
            except ChildFailed as problem:
                if not self._stopping:
                    self._log(f"{problem} The old processes continue.")
                return
            if self._stopping:
                return  # `stop` has stopped the new generation, too
            old, self._children = self._children, new
        self._retiring = gevent.spawn(stop_in_order, [old])
        self._retiring.join()

    def stop(self) -> None:
        """Stop all processes, including those that are being started or replaced."""
        self._stopping = True
        self.close_sockets()
        remove_socket_files(self._config.binds)
        stop_in_order([self._children + self._starting])
        if self._retiring is not None:
            self._retiring.join()

    def close_sockets(self) -> None:
        """Close this process's copies of the sockets; other processes keep theirs."""
        for each in self._sockets + self._metrics_sockets:
            each.close()

    def _start_generation(self) -> list[Child]:
        starting = self._starting = [self._child(index) for index in range(self._count)]
        for child in starting:
            child.start()
        try:
            for child in starting:
                child.ready()
        except ChildFailed:
            stop_in_order([starting])
            raise
        finally:
            self._starting = []
        return starting

    def _child(self, index: int) -> Child:
        metrics_socket = self._metrics_sockets[index : index + 1]
        options = {
            **{name: self._options[name] for name in self._options if name not in REPLACED_OPTIONS},
            "bind": [f"fd://{each.fileno()}" for each in self._sockets],
            "processes": 0,
            "reload": False,
            "stop_on_eof": True,
        }
        if metrics_socket:
            options["metrics"] = f"fd://{metrics_socket[0].fileno()}"
        return Child(
            f"Process {index + 1}",
            [sys.executable, "-m", "thyme", *to_arguments(options)],
            READY,
            Path.cwd(),
            self._log,
            grace_seconds=self._config.drain_seconds + KILL_AFTER,
            pass_fds=[each.fileno() for each in self._sockets + metrics_socket],
        )
