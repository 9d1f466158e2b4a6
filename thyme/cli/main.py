"""The command line of the server: from options to a `Config`, from signals to a clean shutdown.

Standard output has one line, for programs to read: `Thyme listens on http://…`. Log messages go to
standard error. The exit code is 0 after SIGTERM, SIGINT or the end of standard input
(`--stop-on-eof`), 1 if the server cannot start, 2 for invalid options.

Read next: `cli/options.py`, the options; `server/server.py`; `cli/processes.py` for several
processes.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from thyme.cli.options import build_config, read_options
from thyme.cli.processes import Processes
from thyme.config import Config
from thyme.errors import ApplicationNotFound, CertificateUnusable, StartupFailed
from thyme.loading import load
from thyme.loop import install
from thyme.loop.shared import close_shared_loop
from thyme.server import access_log as accesslog
from thyme.server.listeners import DESCRIPTOR
from thyme.server.server import Server
from thyme.supervisor import READY
from thyme.supervisor.child import ChildFailed
from thyme.supervisor.signals import on_eof, on_signals

if TYPE_CHECKING:
    from thyme.cli.reload import Reloader

_LOGGER = logging.getLogger("thyme")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is stopped; return the exit code of the process."""
    options = read_options(arguments, os.environ)
    _configure_logging()
    config = build_config(options)
    try:
        if options.get("processes") or options.get("reload"):
            return _supervise(options, config)
        return _serve(options, config)
    except ApplicationNotFound as error:
        return _fail(f"cannot find the application: {error}")
    except StartupFailed as error:
        return _fail(f"the application cannot start: {error}")
    except ChildFailed as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(_explain(error, config))


def _serve(options: dict[str, Any], config: Config) -> int:
    """Run one server in this process."""
    install()
    server = Server(load(options["app"], stock=options.get("stock", False)), config)
    server.start()
    gc.freeze()  # the program's own objects live on: later collections need not visit them
    service = _Service(options, config, server)
    service.start_status()
    return service.run(server.urls)


def _supervise(options: dict[str, Any], config: Config) -> int:
    """Run one or more server processes, as their parent."""
    processes = Processes(options, config, _LOGGER.info)
    service = _Service(options, config, processes=processes)
    reloader = _start_reloader(processes) if options.get("reload") else None
    try:
        try:
            processes.start()
            service.start_status()
        except BaseException:
            processes.stop()
            raise
        return service.run(processes.urls)
    finally:
        if reloader is not None:
            reloader.stop()


def _start_reloader(processes: Processes) -> Reloader:
    from thyme.cli.reload import Reloader  # for development only

    reloader = Reloader(Path.cwd(), processes.restart)
    reloader.start()
    return reloader


class _Service:
    """Runs this process's own server, or the processes that it is the parent of, until a signal.

    SIGHUP to a server of our own replaces it by processes (`cli/processes.py`): its sockets are
    handed over, it finishes its requests, and this process continues as the parent.
    """

    def __init__(
        self,
        options: dict[str, Any],
        config: Config,
        server: Server | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._options = options
        self._config = config
        self._server = server
        self._processes = processes
        self._status: Server | None = None
        self._stop_requests = 0
        self._stopped = Event()
        self._lock = Semaphore()  # one restart at a time

    def start_status(self) -> None:
        """Serve health and metrics at the address of --metrics, if it is given.

        Called again, it serves those of the processes in place of those of the server.
        """
        bind = self._options.get("metrics")
        if bind is None:
            return
        from thyme.server import status  # only if asked for: it takes time to import

        application: Any = None
        if self._processes is not None:
            application = status.CombinedStatus(self._processes.status_addresses)
        elif self._server is not None:
            application = status.Status(self._server)
        if self._status is not None:
            self._status.application = application
            return
        self._status = Server(application, Config(binds=(bind,)))
        self._status.start()
        if not bind.startswith(DESCRIPTOR):  # otherwise our parent combines and announces them
            _LOGGER.info("health and metrics are on %s", self._status.urls[0])

    def run(self, urls: Sequence[str]) -> int:
        """Report that the server is ready, and block until it is stopped; return the exit code."""
        on_signals((signal.SIGTERM, signal.SIGINT), self._stop)
        on_signals((signal.SIGHUP,), self._restart)
        if self._options.get("stop_on_eof"):
            on_eof(self._stop)
        print(f"{READY}{', '.join(urls)}", flush=True)
        self._stopped.wait()
        if self._server is not None:
            self._server.serve_forever()  # until `Server.stop` has finished
        if self._status is not None:
            self._status.stop(0)
        close_shared_loop()
        return 0

    def _stop(self) -> None:
        """Stop gracefully at the first request, immediately at the second."""
        self._stop_requests += 1
        immediately = self._stop_requests > 1
        stops: list[Callable[[], None]] = []
        if self._server is not None:
            stops.append(partial(self._server.stop, 0 if immediately else None))
        if self._processes is not None and not immediately:
            stops.append(self._processes.stop)
        gevent.joinall([gevent.spawn(stop) for stop in stops])
        self._stopped.set()  # processes that still run stop when their standard input ends

    def _restart(self) -> None:
        with self._lock:
            if self._stop_requests:
                return
            if self._processes is not None:
                self._processes.restart()
                return
            server, self._processes = self._server, self._start_successors()
            if self._processes is not None and server is not None:
                self.start_status()
                server.keep_socket_files = True
                server.stop()
                self._server = None

    def _start_successors(self) -> Processes | None:
        """Start processes on the sockets of our own server; return None if they cannot start."""
        sockets = self._server.duplicate_sockets() if self._server is not None else []
        processes = Processes(self._options, self._config, _LOGGER.info, sockets)
        try:
            processes.start()
        except (ChildFailed, OSError) as problem:
            _LOGGER.error("%s The old process continues.", problem)
            processes.close_sockets()
            return None
        return processes


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # The library logs every opening and closing at INFO.
    logging.getLogger("thyme.websocket.protocol").setLevel(logging.WARNING)
    accesslog.to_standard_error()


def _explain(error: OSError, config: Config) -> str:
    reason = error.strerror or str(error)
    if isinstance(error, CertificateUnusable):
        return str(error)
    if config.binds:
        return f"cannot listen on {', '.join(config.binds)}: {reason}; choose others with --bind"
    return (
        f"cannot listen on {config.host} port {config.port}: {reason}; "
        "choose another with --host or --port"
    )


def _fail(message: str) -> int:
    print(f"thyme: {message}", file=sys.stderr)
    return 1
