#!/usr/bin/env python
"""The finished chat with one command: python thyme/run.py

It starts the parts of the chat in this order: Redis and PostgreSQL (the embedded ones, or those of
REDIS_URL and DATABASE_URL), migrations, demo rooms and accounts, then a server and its workers. It
supervises them, restarts what crashes, and stops everything on Ctrl-C.

Each part is an ordinary command from the README in a child process; none of it runs in this one.
Progress goes to standard error. Standard output has the address on a line of its own
(`Thyme listens on http://…`), the accounts, and how to stop. Supervision is in
`supervisor/child.py`, the embedded servers are in `services/embedded.py`; read `__main__.py` next
for the server itself.
"""

if __name__ == "__main__":
    import os
    import sys

    # Python has put thyme/ first on the path, where our modules would hide other packages.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    from gevent import monkey

    monkey.patch_all()

import argparse
import errno
import fcntl
import ipaddress
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import gevent
import gevent.event

from thyme import services
from thyme.supervisor import READY
from thyme.supervisor.child import Child, ChildFailed, run_command, stop_in_order
from thyme.supervisor.signals import on_signals

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: its manage.py is run, and its state directory is used."""

DATABASE = "multichat"
"""The embedded database and its owner, as in `multichat/addresses.py`."""

CONNECT_SECONDS = 5
"""For a Redis or PostgreSQL server that is not embedded to answer."""

REDIS_DELAY = 1.0
"""Seconds before an embedded Redis that keeps crashing is started again."""

ACCOUNTS = "demo-accounts.json"
"""In the state directory: the passwords of the demo accounts, generated at the first start."""


class CannotStart(Exception):
    """The chat cannot start; the message is one sentence for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chat until SIGINT, SIGTERM or SIGHUP; return 0, or 1 if it cannot start."""
    chat = Chat(parse(arguments))
    stop = gevent.event.Event()
    on_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop.set)
    starting = gevent.spawn(chat.start_or_explain)
    try:
        gevent.wait([starting, stop], count=1)
        if starting.ready() and starting.get():
            log(starting.get())
            return 1
        stop.wait()
        log("Stopping the chat …")
        return 0
    finally:
        starting.kill()
        chat.stop()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options. Exits with code 2 if they are invalid."""
    parser = argparse.ArgumentParser(
        prog="python thyme/run.py",
        description="Run the finished chat: services, server and workers. Ctrl-C stops it.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add(
        "--port", type=port_number, default=8000,
        help="port to listen on; 0 picks a free one (default: %(default)s)",
    )  # fmt: skip
    add(
        "--workers", type=positive, default=1, metavar="N",
        help="number of worker processes (default: %(default)s)",
    )  # fmt: skip
    add("--no-demo", action="store_true", help="do not create demo rooms and accounts")
    return parser.parse_args(arguments)


def port_number(text: str) -> int:
    """Return a TCP port; 0 is allowed."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Return a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def log(line: object) -> None:
    """Print a message for the user to standard error."""
    print(line, file=sys.stderr, flush=True)


def state_directory() -> Path:
    """Return the directory of the embedded servers and of the demo accounts' passwords."""
    return services.state_directory(ROOT)


class Chat:
    """The running chat: its options and its child processes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.workers: list[Child] = []
        self.server: list[Child] = []
        self.redis_supervisor: gevent.Greenlet | None = None

    def start_or_explain(self) -> Exception | None:
        """Start everything; return the problem, for the user, or None."""
        try:
            self.start()
        except (CannotStart, ChildFailed, services.ServiceError) as problem:
            return problem
        return None

    def start(self) -> None:
        """Start everything, and print the address. Raises the three errors above."""
        check_port(self.options.host, self.options.port)
        if embedded := start_services():
            self.redis_supervisor = gevent.spawn(supervise_redis, embedded)
        log("Migrating the database …")
        with migration_lock():
            accounts = self.prepare_database()
        log(f"Starting {count(self.options.workers, 'worker')} and the server …")
        self.start_children()
        for child in [*self.workers, *self.server]:
            ready = child.ready()
        self.announce(ready, accounts)

    def prepare_database(self) -> list[dict[str, str]]:
        """Migrate, and create what is missing of the demo; return the demo accounts."""
        if self.options.no_demo:
            manage("migrate", "--verbosity", "0")
            return []
        return make_demo(self.with_accounts())

    def start_children(self) -> None:
        """Start the workers and the server; do not wait until they are ready."""
        runworker2 = [sys.executable, "manage.py", "runworker2", "--stop-on-eof"]
        numbers = range(1, self.options.workers + 1)
        self.workers = [Child(f"Worker {n}", runworker2, "Worker ", ROOT, log) for n in numbers]
        listen = ["--host", self.options.host, "--port", str(self.options.port), "--stop-on-eof"]
        thyme = [sys.executable, "-m", "thyme", "multichat.relay:application", *listen]
        self.server = [Child("The server", thyme, READY, ROOT, log)]
        for child in [*self.workers, *self.server]:
            child.start()

    def with_accounts(self) -> bool:
        """Return True if demo accounts are safe: the database is embedded, the host loopback."""
        return not os.environ.get("DATABASE_URL") and is_loopback(self.options.host)

    def announce(self, ready: str, accounts: list[dict[str, str]]) -> None:
        """Print the server's line, the accounts, and how to stop."""
        # After a restart, the server must be on the port that browsers know.
        port = ready.rpartition(":")[2]
        self.server[0].command[self.server[0].command.index("--port") + 1] = port
        print(ready)
        for account in accounts:
            print("  " + describe(account))
        if not self.with_accounts() or self.options.no_demo:
            print("  Create an account with: python manage.py createsuperuser")
        if not is_loopback(self.options.host) and not os.environ.get("DJANGO_ALLOWED_HOSTS"):
            print("  Other machines need this host's name or address in DJANGO_ALLOWED_HOSTS.")
        print("Press Ctrl-C to stop; the database is kept.", flush=True)

    def stop(self) -> None:
        """Stop the server first, so no connection arrives; then workers, then unused services."""
        stop_in_order([self.server, self.workers])
        if self.redis_supervisor is not None:
            self.redis_supervisor.kill()
        services.stop_unused(state_directory())


def describe(account: dict[str, str]) -> str:
    """Return one line about a demo account."""
    kind = "staff" if account["staff"] else "not staff"
    password = account["password"] or "(you have changed the password)"
    return f"{account['username']:<8}{password:<16}{kind}"


def count(number: int, noun: str) -> str:
    """Return "1 worker", "2 workers"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_loopback(host: str) -> bool:
    """Return True if only this machine can connect to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_port(host: str, port: int) -> None:
    """Raise CannotStart if the server cannot listen there; called before anything is started."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CannotStart(f"Cannot resolve the host {host}: {error.strerror}.") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise CannotStart(explain_bind(host, port, error)) from error


def explain_bind(host: str, port: int, error: OSError) -> str:
    """Return one sentence about an address that is not available."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is in use: stop the program that listens there, or choose "
            "another port with --port (0 picks a free one)."
        )
    return (
        f"Cannot listen on {host} port {port}: {error.strerror}; choose another address with "
        "--host and --port."
    )


def start_services() -> str | None:
    """Check the configured Redis and PostgreSQL, or start the embedded ones.

    Returns the URL of Redis if it is the embedded one.
    """
    embedded = None
    if url := os.environ.get("REDIS_URL"):
        check_redis(url)
    else:
        embedded = services.redis(state_directory(), log)
    if url := os.environ.get("DATABASE_URL"):
        check_postgres(url)
    else:
        services.postgres(state_directory(), log, database=DATABASE, role=DATABASE)
    return embedded


def supervise_redis(url: str) -> None:
    """Restart the embedded Redis whenever it has died; workers and servers reconnect.

    An idle connection waits for the end of the stream, so the kernel reports the death.
    """
    while True:
        with socket.socket(socket.AF_UNIX) as idle, suppress(OSError):
            idle.connect(urlsplit(url).path)
            idle.recv(1)
        try:
            services.redis(state_directory(), log)
        except services.ServiceError as problem:
            log(problem)
        gevent.sleep(REDIS_DELAY)


def check_redis(url: str) -> None:
    """Raise CannotStart if the configured Redis does not answer."""
    import redis

    try:
        with redis.Redis.from_url(
            url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS
        ) as connection:
            connection.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise CannotStart(unreachable("Redis", "REDIS_URL", url, error)) from error


def check_postgres(url: str) -> None:
    """Raise CannotStart if the configured PostgreSQL does not answer."""
    import psycopg2

    if not url.startswith(("postgres://", "postgresql://")):
        return  # another database that Django supports: `migrate` reports problems
    try:
        psycopg2.connect(url, connect_timeout=CONNECT_SECONDS).close()
    except psycopg2.Error as error:
        raise CannotStart(unreachable("PostgreSQL", "DATABASE_URL", url, error)) from error


@contextmanager
def migration_lock() -> Iterator[None]:
    """Keep two chats that start at the same time from creating the same tables and rooms."""
    state = state_directory()
    state.mkdir(parents=True, exist_ok=True)
    with (state / "migrate.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, or this process dies
        yield


def unreachable(label: str, variable: str, url: str, error: Exception) -> str:
    """Return one sentence, without user, password and options of the URL: they may be secrets."""
    scheme, _, rest = url.partition("://")
    address = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
    # libpq repeats the whole URL if it cannot parse it.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(url, address)
    return (
        f"{label} at {address} ({variable}) does not answer: {reason.rstrip('.')}. Start it, "
        f"correct {variable}, or unset {variable} to use the embedded one."
    )


def manage(*arguments: str) -> str:
    """Run `python manage.py …`; return its output. Raises ChildFailed if it fails."""
    return run_command([sys.executable, "manage.py", *arguments], ROOT)


def make_demo(with_accounts: bool) -> list[dict[str, str]]:
    """Migrate, create missing demo rooms and accounts; return the accounts, with known passwords.

    All in one process, because Django takes a second to start.
    """
    arguments = ["demo", "--json", "--migrate"]
    if with_accounts:
        arguments += ["--accounts", "--passwords", str(state_directory() / ACCOUNTS)]
    made = json.loads(manage(*arguments))
    if made["rooms_made"]:
        log(f"Created the rooms {', '.join(made['rooms_made'])}.")
    accounts: list[dict[str, str]] = made["accounts"]
    return accounts


if __name__ == "__main__":
    sys.exit(main())
