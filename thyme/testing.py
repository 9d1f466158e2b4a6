"""Run Thyme under Channels' live tests, in a process of its own.

    class ChatTests(ChannelsLiveServerTestCase):
        ProtocolServerProcess = ThymeProcess

The rest of the test case stays as it is. The server runs in a new interpreter that is patched for
gevent before it imports anything else; it is not forked from the test. A fork would hand it every
object the test process holds, and patching looks at all of them: a lazy `request.user` would wake
up and query the database. What the server needs is pickled and sent over its standard input: the
path of modules, the test's settings and databases, and the callables of the test case.

Standard input stays open as long as the test process lives; when it ends, so does the server.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Setup = Callable[[], None]

END_SECONDS = 20.0
"""For a terminated server to end before it is killed: an application's shutdown may take 10 s."""

DATABASE_PLACE = ("HOST", "PORT", "USER", "PASSWORD", "NAME")
"""Where a database is. How to talk to it (engine, pool) is for the server's own settings to say."""

_BOOT = """\
import sys
sys.path[:] = {path!r}
from gevent import monkey
monkey.patch_all()
from thyme import testing
testing._serve({report})
"""


class ServerProcessError(RuntimeError):
    """The server's process could not be started; the message has the reason."""


class ThymeProcess:
    """A server process, as `ChannelsLiveServerTestCase` expects it.

    `get_application` returns the ASGI (or esque) application, in the new process. `setup` is called
    there before it, `teardown` at an orderly end. All three must be picklable, as for Daphne where
    processes are spawned: functions of a module, or `functools.partial` of these. `kwargs` are
    fields of `Config`. `ready` is set when `port` can be connected to.
    """

    def __init__(
        self,
        host: str,
        get_application: Callable[[], Any],
        kwargs: dict[str, Any] | None = None,
        setup: Setup | None = None,
        teardown: Setup | None = None,
    ) -> None:
        self.host = host
        self.get_application = get_application
        self.settings = kwargs or {}
        self.setup = setup
        self.teardown = teardown
        self.port = Port()
        self.ready = Ready(self)
        self._process: subprocess.Popen[bytes] | None = None
        self._terminated = False

    def start(self) -> None:
        """Start the process; do not wait until it is ready.

        Raises `ServerProcessError` when something cannot be pickled.
        """
        handover = self._handover()
        self.ready.report, report = multiprocessing.Pipe(duplex=False)
        with report:
            boot = _BOOT.format(path=sys.path, report=report.fileno())
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this file
                [sys.executable, "-c", boot], stdin=subprocess.PIPE, pass_fds=[report.fileno()]
            )
        try:
            self._input.write(handover)
            self._input.flush()
        except BrokenPipeError:
            pass  # it has already ended: `ready.wait()` reports that

    def terminate(self) -> None:
        """Ask the process to end: connections are closed, then `teardown` is called."""
        if self._process is not None:
            self._terminated = True
            self._process.terminate()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, for at most `timeout` seconds.

        Without a timeout, a terminated process that does not end within END_SECONDS is killed.
        """
        if self._process is None:
            return
        must_end = timeout is None and self._terminated
        try:
            self._process.wait(END_SECONDS if must_end else timeout)
        except subprocess.TimeoutExpired:
            if not must_end:
                return
            self._process.kill()
            self._process.wait()
        self._input.close()
        self.ready.report.close()

    def is_alive(self) -> bool:
        """Return whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def exitcode(self) -> int | None:
        """The exit code, a negative signal number, or None before the process has ended."""
        return None if self._process is None else self._process.poll()

    @property
    def _input(self) -> Any:
        assert self._process is not None  # noqa: S101 - for the type checker
        return self._process.stdin

    def _handover(self) -> bytes:
        parts = {
            "server": {"host": self.host, "port": 0} | self.settings,
            "setup": _pickled("setup", self.setup),
            "get_application": _pickled("get_application", self.get_application),
            "teardown": _pickled("teardown", self.teardown),
            "settings": _current_settings(),
        }
        return pickle.dumps(parts)


class Port:
    """The port the server listens on: `value` is 0 until the server is ready."""

    value = 0


class Ready:
    """The event that the server can be connected to, as the server's process reports it."""

    report: Connection[Any, Any]

    def __init__(self, process: ThymeProcess) -> None:
        self._process = process
        self._problem = ""

    def is_set(self) -> bool:
        """Return whether `wait()` has seen the server ready."""
        return self._process.port.value != 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for at most `timeout` seconds; return whether the server is ready.

        Raises `ServerProcessError`, with the traceback from the process, when it could not start.
        """
        if not self.is_set() and not self._problem:
            if not self.report.poll(timeout):
                return False
            self._read_report()
        if self._problem:
            raise ServerProcessError(self._problem)
        return True

    def _read_report(self) -> None:
        try:
            port, reason = self.report.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            port, reason = 0, f"it ended with code {code}; its standard error may say why"
        self._process.port.value = port
        if reason:
            self._problem = f"the server's process could not start:\n{reason}"


def _pickled(name: str, value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception as error:
        raise ServerProcessError(
            f"the server runs in a new interpreter, and {name} cannot be pickled for it: {value!r}"
            f" ({error}). Use what a module defines, or functools.partial of it."
        ) from error


def _current_settings() -> dict[str, bytes] | None:
    """Return the test's settings, each of them pickled; None without settings.

    A value that cannot be pickled is left to the settings module, which the server imports, too.
    """
    from django.conf import settings

    if not settings.configured:
        return None
    values = {name: getattr(settings, name) for name in dir(settings) if name.isupper()}
    values["DATABASES"] = _current_databases()
    module = sys.modules.get(os.environ.get("DJANGO_SETTINGS_MODULE", ""))
    pickled = {}
    for name, value in values.items():
        try:
            pickled[name] = pickle.dumps(value)
        except Exception:
            if value is not getattr(module, name, None):
                _pickled(f"the setting {name}", value)
    return pickled


def _current_databases() -> dict[str, dict[str, Any]]:
    """Return how the test process itself connects.

    TEST names the database in use, too: Channels' own `setup` takes the name from there.
    """
    from django.db import connections

    databases = {}
    for alias in connections:
        used = connections[alias].settings_dict
        databases[alias] = used | {"TEST": used["TEST"] | {"NAME": used["NAME"]}}
    return databases


# --- in the new process -------------------------------------------------------------------


def _serve(descriptor: int) -> None:
    """Serve until SIGTERM comes or standard input ends; report to `descriptor`."""
    _patch_psycopg()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test, which then ends us
    report: Connection[Any, Any] = Connection(descriptor, readable=False)
    handover = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our parent
    teardown: Setup | None = None
    try:
        _use(handover["settings"])
        teardown = pickle.loads(handover["teardown"])  # noqa: S301
        server = _start(handover)
        with report:
            report.send((server.address[1], ""))
        server.serve_forever()
    except BaseException:
        if not report.closed:
            report.send((0, traceback.format_exc()))
        raise
    finally:
        if teardown is not None:
            teardown()


def _patch_psycopg() -> None:
    try:
        from psycogreen.gevent import patch_psycopg
    except ImportError:
        return  # without psycopg2 there is nothing to patch
    patch_psycopg()


def _use(pickled: dict[str, bytes] | None) -> None:
    """Set up Django with the test's settings; nothing to do if the test does not use Django."""
    if pickled is None:
        return
    import django
    from django.conf import settings

    values = {name: pickle.loads(value) for name, value in pickled.items()}  # noqa: S301
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        for alias, used in values.pop("DATABASES").items():
            place = {key: used[key] for key in (*DATABASE_PLACE, "TEST") if key in used}
            settings.DATABASES[alias] = settings.DATABASES.get(alias, used) | place
        for name, value in values.items():
            if getattr(settings, name, None) != value:
                setattr(settings, name, value)
    else:
        settings.configure(**values)
    django.setup()


def _start(handover: dict[str, Any]) -> Any:

    from thyme import loop
    from thyme.config import Config
    from thyme.loading import prepare
    from thyme.server.server import Server
    from thyme.supervisor.signals import on_eof, on_signals

    loop.install()
    setup: Setup | None = pickle.loads(handover["setup"])  # noqa: S301
    if setup is not None:
        setup()
    get_application = pickle.loads(handover["get_application"])  # noqa: S301
    server = Server(prepare(get_application()), Config(**handover["server"]))
    server.start()

    def stop() -> None:
        server.stop(drain_seconds=0)

    on_signals([signal.SIGTERM], stop)
    on_eof(stop)
    return server
