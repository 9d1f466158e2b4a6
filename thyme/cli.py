"""The command line of the server: options to a `Config`, signals to an orderly stop.

Printed to standard output is one line that a program can read, `Thyme listens on http://…`; log
lines go to standard error. The exit code is 0 after SIGTERM, SIGINT or the end of standard input
(`--stop-on-eof`), 1 when the server could not start, 2 for wrong options.

Read next: `options.py`, what can be said; `server.py`; `processes.py` for several of them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event

from thyme.application import ApplicationNotFound, load
from thyme.children import ChildFailed
from thyme.config import Config
from thyme.errors import CertificateUnusable, StartupFailed
from thyme.listeners import tcp_bind
from thyme.loop import close_shared_loop, install
from thyme.options import config_of, read_options
from thyme.processes import Processes, watch
from thyme.programs import at_end_of_input, on_signals
from thyme.server import Server
from thyme.status import Status

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
    status = _start_status(server, options.get("metrics"))
    _stop_when_told(server.stop, options)
    print(f"Thyme listens on {', '.join(server.places)}", flush=True)
    server.serve_forever()
    if status is not None:
        status.stop(0)
    close_shared_loop()
    return 0


def _start_status(server: Server, bind: str | None) -> Server | None:
    if bind is None:
        return None
    status = Server(Status(server), Config(binds=(bind,)))
    status.start()
    _LOGGER.info("health and metrics are on %s", status.places[0])
    return status


def _supervise(options: dict[str, Any], config: Config) -> int:
    processes = Processes(options, config, _LOGGER.info)
    stopped = Event()
    stopping: list[bool] = []

    def stop(drain_seconds: float | None = None) -> None:
        if stopping:  # the second time: the end of their standard input tells the processes
            stopped.set()
        stopping.append(True)
        processes.stop()
        stopped.set()

    _stop_when_told(stop, options)
    try:
        processes.start()
    except BaseException:
        processes.stop()
        raise
    on_signals([signal.SIGHUP], processes.renew)
    if options.get("reload"):
        gevent.spawn(watch, Path.cwd(), processes.renew)
    print(f"Thyme listens on {', '.join(processes.places)}", flush=True)
    stopped.wait()
    return 0


def url(host: str, port: int) -> str:
    """The address as a browser wants it. RFC 3986 3.2.2: IPv6 addresses stand in brackets."""
    return f"http://{tcp_bind(host, port)}"


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # The library tells every opening and closing; what goes wrong is enough.
    logging.getLogger("thyme.websocket.protocol").setLevel(logging.WARNING)
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(message)s"))
    access = logging.getLogger("thyme.access")
    access.addHandler(lines)
    access.propagate = False


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


def _stop_when_told(stop: Callable[[float | None], None], options: dict[str, Any]) -> None:
    """By a signal, or the end of standard input; told a second time, it is to stop at once."""
    received: list[bool] = []

    def told() -> None:
        received.append(True)
        stop(0 if len(received) > 1 else None)

    on_signals((signal.SIGTERM, signal.SIGINT), told)
    if options.get("stop_on_eof"):
        gevent.spawn(at_end_of_input, told)
