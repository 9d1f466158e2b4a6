"""Embedded Redis and Postgres: started by the first process that asks, ended after the last.

`redis()` and `postgres()` give a URL that answers. This file decides who starts a server and
who shares it; `services/engines.py` knows the two servers, `services/keeper.py` is the process that
stays beside one. Nothing here knows Django, and nothing runs on import.

All that processes of one checkout have in common are three files for each service in its
state directory, and who holds a `flock` on them:

    redis.start    exclusive: the one process that starts or stops, and its keeper until ready
    redis.users    shared: each process that uses the server, as long as it lives
                   exclusive: a keeper that found no user any more and stops the server
    redis.keeper   exclusive: the keeper, as long as it lives; in it, its pid and the URL

The kernel drops the locks of a process however it dies, so there is nothing to time out and
nothing to clean up. Descriptors are not inherited by programs that a user starts; a child made
by `fork` alone counts as a user, which it is.
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
    answers,
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

# One lock, so that of two greenlets of a patched process the second waits in gevent and not
# in flock(2), where it would stop the first one too.
_turn = threading.Lock()
_held: dict[Path, int] = {}  # users file ► our descriptor with the shared lock


def state_directory() -> Path:
    """Where this checkout keeps what its embedded servers need: $THYME_STATE or `.thyme`."""
    given = os.environ.get("THYME_STATE")
    return (Path(given) if given else Path(__file__).parents[2] / ".thyme").resolve()


def to_stderr(line: str) -> None:
    """Where a person sees what is started, and a program's standard output stays its own."""
    print(line, file=sys.stderr, flush=True)


def redis(log: Log = to_stderr, state: Path | None = None) -> str:
    """The URL of the embedded Redis, as `redis.Redis.from_url` takes it; started if need be.

    The server runs at least as long as this process. `log` gets a line when one is started.

    Raises ServiceError, with one sentence to show.
    """
    return _use(Redis(state or state_directory()), log)


def postgres(log: Log = to_stderr, state: Path | None = None) -> str:
    """The URL of the embedded Postgres, as libpq and dj_database_url take it. See `redis`.

    Its role `multichat` owns the database `multichat` and may make others (for tests).
    """
    return _use(Postgres(state or state_directory(), Account.unprivileged()), log)


def stop_unused(state: Path | None = None) -> None:
    """Give up this process's uses, and wait until servers that nobody else uses have ended."""
    state = state or state_directory()
    with _turn:
        for engine in (Postgres(state, Account()), Redis(state)):
            place = _Place(engine)
            descriptor = _held.pop(place.users, None)
            if descriptor is not None:
                os.close(descriptor)
            if place.users.exists():
                place.stop_if_unused()


def _use(engine: Engine, log: Log) -> str:
    place = _Place(engine)
    with _turn:
        try:
            return place.use(log)
        except OSError as error:
            raise NotPrivate(
                f"Cannot use {engine.state} for {engine.label}: {error}. It must belong to the "
                "user who starts the chat; THYME_STATE names another directory."
            ) from error


class _Place:
    """The three lock files of one engine, and the order in which they are taken: as listed."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.start = engine.state / f"{engine.name}.start"
        self.users = engine.state / f"{engine.name}.users"
        self.keeper = engine.state / f"{engine.name}.keeper"
        self.log = engine.state / f"{engine.name}.log"

    def use(self, log: Log) -> str:
        """Hold the users lock; the URL of a server that answers, ours or another's."""
        self.engine.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.users in _held and (url := self._answering()):
            return url
        with _locked(self.start, fcntl.LOCK_EX) as start:
            self._hold_users()
            try:
                return self._answering() or self._start(log, start)
            except BaseException:
                os.close(_held.pop(self.users))
                raise

    def stop_if_unused(self) -> None:
        """Take the users lock from a server without users and see its keeper out."""
        with _locked(self.start, fcntl.LOCK_EX), _opened(self.users) as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not self._keeper_is_stopping(users):
                    return
            if known := self._keeper():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(known["pid"]), signal.SIGTERM)
                self._await_keeper()

    def _hold_users(self) -> None:
        """A shared lock on the users file; waits while a keeper stops its server."""
        if self.users not in _held:
            descriptor = os.open(self.users, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _held[self.users] = descriptor

    def _keeper(self) -> dict[str, str | int] | None:
        """What the living keeper wrote about itself, or None."""
        with _opened(self.keeper) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                written = os.pread(descriptor, 4096, 0)
                return json.loads(written) if written else None
            return None

    def _await_keeper(self) -> None:
        with _locked(self.keeper, fcntl.LOCK_SH):
            pass

    @staticmethod
    def _keeper_is_stopping(users: int) -> bool:
        """Whether it is the keeper that holds the users lock: users would share it with us."""
        try:
            fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def _answering(self) -> str | None:
        """The URL of the server that runs with a keeper, if it takes connections."""
        known = self._keeper()
        if known and answers(Path(str(known["socket"]))):
            return str(known["url"])
        return None

    def _start(self, log: Log, start: int) -> str:
        """Start a server under a new keeper. Called with the start lock."""
        self._await_keeper()  # of a server that has just died
        sockets = socket_directory(self.engine)
        path = self.engine.socket_path(sockets)
        if answers(path):
            self.engine.stop_stray(sockets)
        self.engine.prepare(log, keep=[start])
        log(f"Starting {self.engine.label} …")
        url = self.engine.url(sockets)
        said = _start_keeper(
            self.engine.name,
            {
                "command": self.engine.command(sockets),
                "user": self.engine.account.user,
                "group": self.engine.account.group,
                "log": str(self.log),
                "stop": self.engine.stop,
                "hurry": self.engine.hurry,
                "users": str(self.users),
                "keeper": str(self.keeper),
                "start": start,
                "sockets": str(sockets),
                "socket": str(path),
                "url": url,
            },
        )
        if said != "ready":
            raise DidNotStart(
                f"{self.engine.label} did not start: {said or 'its keeper ended'}. Its last words "
                f"in {self.log}: {last_lines(self.log)}"
            )
        return url


def _start_keeper(name: str, order: keeper.Order) -> str:
    """The keeper's one line. It keeps running, as nobody's child and in its own session."""
    # -I: not our sys.path, where thyme/ could hide the standard library; -S: no site.
    result = subprocess.run(  # noqa: S603 - our own interpreter and file
        [sys.executable, "-I", "-S", keeper.__file__, name],
        input=json.dumps(order),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env={"LC_ALL": "C"},
        pass_fds=[order["start"]],
        start_new_session=True,
    )
    return result.stdout.strip()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    """Hold a lock of `kind` on `path`. A child that inherits the descriptor holds it too."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, kind)
        yield descriptor
