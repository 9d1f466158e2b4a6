"""Embedded Redis and PostgreSQL: started by the first process that needs them, and shared.

`redis(state)` and `postgres(state, …)` return the URL of a server that accepts connections; it is
stopped when the last process that uses it exits. This module decides which process starts a server
and which ones share it; `services/engines.py` knows the two servers, `services/keeper.py` is the
process that supervises one. Nothing here knows Django, and nothing runs on import.

Processes that share a server have the same state directory. They coordinate with `flock` on three
files per server there:

    redis.start    exclusive: the one process that starts or stops the server; its keeper holds the
                   lock, too, until the server is ready
    redis.users    shared: each process that uses the server, until it exits
                   exclusive: the keeper, which found no user left and stops the server
    redis.keeper   exclusive: the keeper, until it exits; the file has its pid and the URL

The kernel releases the locks of a process however it exits, so there are no timeouts and nothing to
clean up. Programs that a user starts do not inherit the descriptors; a child made by `fork` alone
counts as a user, which it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from thyme.services import keeper
from thyme.services.engines import (
    Account,
    DidNotStart,
    Engine,
    Log,
    NotInstalled,
    NotPrivate,
    Postgres,
    Redis,
    ServiceError,
    accepts_connections,
    last_lines,
    socket_directory,
)

__all__ = [
    "DidNotStart",
    "NotInstalled",
    "NotPrivate",
    "ServiceError",
    "postgres",
    "redis",
    "state_directory",
    "stop_unused",
]

# With this lock, the second of two greenlets of a patched process waits in gevent, and not in
# flock(2), which would block the first one, too.
_mutex = threading.Lock()
_held_locks: dict[Path, int] = {}  # users file ► our descriptor with the shared lock


def state_directory(root: Path) -> Path:
    """Return where the servers of a project in `root` keep files: $THYME_STATE, or `.thyme`."""
    configured = os.environ.get("THYME_STATE")
    return (Path(configured) if configured else root / ".thyme").resolve()


def log_to_stderr(line: str) -> None:
    """Print `line` for the user; standard output stays the program's own."""
    print(line, file=sys.stderr, flush=True)


def redis(state: Path, log: Log = log_to_stderr) -> str:
    """Return the URL of the embedded Redis of `state`, for `redis.Redis.from_url`.

    It is started if needed, and then `log` is called with a line for the user. It runs at least as
    long as this process.

    Raises ServiceError, with a message for the user.
    """
    return _use(Redis(state), log)


def postgres(state: Path, log: Log = log_to_stderr, *, database: str, role: str) -> str:
    """Return the URL of the embedded PostgreSQL of `state`, for libpq and dj_database_url.

    `role` owns `database` and may create others (for tests); both are made with the data. See
    `redis` for the rest.
    """
    return _use(Postgres(state, Account.unprivileged(), database, role), log)


def stop_unused(state: Path) -> None:
    """Stop using the servers of `state`; return when those without other users have exited."""
    with _mutex:
        for name in (Postgres.name, Redis.name):
            files = LockFiles(state, name)
            descriptor = _held_locks.pop(files.users, None)
            if descriptor is not None:
                os.close(descriptor)
            if files.users.exists():
                files.stop_if_unused()


def _use(engine: Engine, log: Log) -> str:
    with _mutex:
        try:
            return _Service(engine, log).use()
        except OSError as error:
            raise NotPrivate(
                f"Cannot use {engine.state} for {engine.label}: {error}. The directory must belong "
                "to the current user; set THYME_STATE to use another one."
            ) from error


class LockFiles:
    """The three lock files of one server. Locks are acquired in the order of the files below."""

    def __init__(self, state: Path, name: str) -> None:
        self.start = state / f"{name}.start"
        self.users = state / f"{name}.users"
        self.keeper = state / f"{name}.keeper"

    def hold_users(self) -> None:
        """Acquire the shared lock of a user; wait while a keeper stops its server."""
        if self.users not in _held_locks:
            descriptor = os.open(self.users, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _held_locks[self.users] = descriptor

    def release_users(self) -> None:
        """Release the lock of a user."""
        os.close(_held_locks.pop(self.users))

    def read_keeper(self) -> dict[str, str | int] | None:
        """Return what the running keeper wrote about itself, or None if there is none."""
        with _opened(self.keeper) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                written = os.pread(descriptor, 4096, 0)
                return json.loads(written) if written else None
            return None

    def wait_for_keeper(self) -> None:
        """Block until the keeper, if there is one, has exited."""
        with _locked(self.keeper, fcntl.LOCK_SH):
            pass

    def stop_if_unused(self) -> None:
        """Terminate the keeper of a server without users, and wait until it has exited."""
        with _locked(self.start, fcntl.LOCK_EX), _opened(self.users) as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not self._keeper_is_stopping(users):
                    return
            if known := self.read_keeper():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(known["pid"]), signal.SIGTERM)
                self.wait_for_keeper()

    @staticmethod
    def _keeper_is_stopping(users: int) -> bool:
        """Return True if the keeper holds the lock: other users would share it with us."""
        try:
            fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


class _Service:
    """One engine and its lock files."""

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine = engine
        self._log = log
        self._files = LockFiles(engine.state, engine.name)
        self._server_log = engine.state / f"{engine.name}.log"

    def use(self) -> str:
        """Become a user; return the URL of a server that accepts connections."""
        files = self._files
        self._engine.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if files.users in _held_locks and (url := self._running()):
            return url
        with _locked(files.start, fcntl.LOCK_EX) as start:
            files.hold_users()
            try:
                return self._running() or self._start(start)
            except BaseException:
                files.release_users()
                raise

    def _running(self) -> str | None:
        """Return the URL of the server that runs with a keeper, if it accepts connections."""
        known = self._files.read_keeper()
        if known and accepts_connections(Path(str(known["socket"]))):
            return str(known["url"])
        return None

    def _start(self, start: int) -> str:
        """Start a server with a new keeper, which inherits the start lock; return its URL."""
        engine = self._engine
        self._files.wait_for_keeper()  # of a server that has just died
        sockets = socket_directory(engine)
        path = engine.socket_path(sockets)
        if accepts_connections(path):
            engine.stop_stray(sockets)
        engine.prepare(self._log, keep=[start])
        self._log(f"Starting {engine.label} …")
        url = engine.url(sockets)
        answer = _start_keeper(
            engine.name,
            {
                "command": engine.command(sockets),
                "user": engine.account.user,
                "group": engine.account.group,
                "log": str(self._server_log),
                "stop_signal": engine.stop_signal,
                "force_signal": engine.force_signal,
                "users": str(self._files.users),
                "keeper": str(self._files.keeper),
                "start": start,
                "sockets": str(sockets),
                "socket": str(path),
                "url": url,
            },
        )
        if answer != "ready":
            raise DidNotStart(
                f"{engine.label} did not start: {answer or 'its keeper exited'}. Last lines of "
                f"{self._server_log}: {last_lines(self._server_log)}"
            )
        return url


def _start_keeper(name: str, job: keeper.Job) -> str:
    """Start a keeper and return its one line of output. It runs on as a daemon."""
    # -I: not our sys.path, where thyme/ could hide the standard library; -S: no site.
    result = subprocess.run(  # noqa: S603 - our own interpreter and file
        [sys.executable, "-I", "-S", keeper.__file__, name],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env={"LC_ALL": "C"},
        pass_fds=[job["start"]],
        start_new_session=True,
    )
    return result.stdout.strip()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open `path`, and create it if needed; give the descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    """Hold a lock of `kind` on `path`. A child that inherits the descriptor holds it, too."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, kind)
        yield descriptor
