"""The command line of the server: options to a `Config`, signals to an orderly stop.

Printed to standard output is one line that a program can read, `Thyme listens on http://…`; log
lines go to standard error. The exit code is 0 after SIGTERM, SIGINT or the end of standard input
(`--stop-on-eof`), 1 when the server could not start, 2 for wrong options.

Read next: `cli/options.py`, what can be said; `server/server.py`; `cli/processes.py` for several of
them.
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
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from thyme.asgi import Application
from thyme.cli.options import config_of, read_options
from thyme.cli.processes import Processes
from thyme.cli.reload import times, watch
from thyme.config import Config
from thyme.errors import ApplicationNotFound, CertificateUnusable, StartupFailed
from thyme.loading import load
from thyme.loop import install
from thyme.loop.shared import close_shared_loop
from thyme.server import access_log as accesslog
from thyme.server.listeners import DESCRIPTOR, tcp_bind
from thyme.server.server import Server
from thyme.server.status import CombinedStatus, Status
from thyme.supervisor.child import ChildFailed
from thyme.supervisor.signals import at_end_of_input, on_signals

_LOGGER = logging.getLogger("thyme")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop; the exit code of the process."""
    options = read_options(arguments, os.environ)
    _log()
    config = config_of(options)
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
        return _fail(_explained(error, config))


def _serve(options: dict[str, Any], config: Config) -> int:
    install()
    server = Server(load(options["app"], stock=options.get("stock", False)), config)
    server.start()
    gc.freeze()  # what the program itself consists of is not searched for garbage again and again
    service = _Service(options, config, server)
    service.start_status(Status(server))
    return service.run(server.places)


def _supervise(options: dict[str, Any], config: Config) -> int:
    before = times(Path.cwd()) if options.get("reload") else {}
    processes = Processes(options, config, _LOGGER.info)
    service = _Service(options, config, processes=processes)
    try:
        processes.start()
        service.start_status(CombinedStatus(processes.metrics_places))
    except BaseException:
        processes.stop()
        raise
    if options.get("reload"):
        gevent.spawn(watch, Path.cwd(), before, processes.renew)
    return service.run(processes.places)


class _Service:
    """What this process is told by signals: about its own server, or the processes it looks after.

    A server of our own that is to start anew gets processes in its place (`cli/processes.py`): we
    hand its sockets over, let it finish, and stay as the parent.
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
        self._told = 0
        self._ended = Event()
        self._turn = Semaphore()

    def start_status(self, application: Application) -> None:
        """Listen on the bind of --metrics, if there is one; or go on there with `application`."""
        bind = self._options.get("metrics")
        if self._status is not None:
            self._status.application = application
        elif bind is not None:
            self._status = Server(application, Config(binds=(bind,)))
            self._status.start()
            if not bind.startswith(DESCRIPTOR):  # else our parent gathers them, and says where
                _LOGGER.info("health and metrics are on %s", self._status.places[0])

    def run(self, places: Sequence[str]) -> int:
        """Say that we listen, and go on until told to stop; the exit code."""
        on_signals((signal.SIGTERM, signal.SIGINT), self._stop)
        on_signals((signal.SIGHUP,), self._renew)
        if self._options.get("stop_on_eof"):
            gevent.spawn(at_end_of_input, self._stop)
        print(f"Thyme listens on {', '.join(places)}", flush=True)
        self._ended.wait()
        if self._server is not None:
            self._server.serve_forever()  # to its very end
        if self._status is not None:
            self._status.stop(0)
        close_shared_loop()
        return 0

    def _stop(self) -> None:
        """Told a second time, it is to stop at once."""
        self._told += 1
        at_once = self._told > 1
        ends: list[Callable[[], None]] = []
        if self._server is not None:
            ends.append(partial(self._server.stop, 0 if at_once else None))
        if self._processes is not None and not at_once:
            ends.append(self._processes.stop)
        gevent.joinall([gevent.spawn(end) for end in ends])
        self._ended.set()  # processes that are left see the end of their standard input

    def _renew(self) -> None:
        with self._turn:
            if self._told:
                return
            if self._processes is not None:
                self._processes.renew()
                return
            server, self._processes = self._server, self._successors()
            if self._processes is not None and server is not None:
                self.start_status(CombinedStatus(self._processes.metrics_places))
                server.handed_over = True
                server.stop()
                self._server = None

    def _successors(self) -> Processes | None:
        """Processes that accept where our own server does; None when they cannot start."""
        sockets = self._server.copied_sockets() if self._server is not None else []
        processes = Processes(self._options, self._config, _LOGGER.info, sockets)
        try:
            processes.start()
        except (ChildFailed, OSError) as problem:
            _LOGGER.error("%s The old process goes on.", problem)
            processes.let_go()
            return None
        return processes


def url(host: str, port: int) -> str:
    """The address as a browser wants it. RFC 3986 3.2.2: IPv6 addresses stand in brackets."""
    return f"http://{tcp_bind(host, port)}"


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # The library tells every opening and closing; what goes wrong is enough.
    logging.getLogger("thyme.websocket.protocol").setLevel(logging.WARNING)
    accesslog.to_standard_error()


def _explained(error: OSError, config: Config) -> str:
    reason = error.strerror or str(error)
    if isinstance(error, CertificateUnusable):
        return str(error)
    if config.binds:
        return f"cannot listen on {', '.join(config.binds)}: {reason}; choose others with --bind"
    return (
        f"cannot listen on {config.host} port {config.port}: {reason}; "
        "choose another with --host or --port"
    )


def _fail(sentence: str) -> int:
    print(f"thyme: {sentence}", file=sys.stderr)
    return 1
