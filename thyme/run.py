#!/usr/bin/env python
"""The finished chat with one command: python thyme/run.py

It brings up what the chat consists of, in this order: Redis and Postgres (the embedded ones, or
those of REDIS_URL and DATABASE_URL), migrations, demo rooms and accounts, then a server and its
workers. It stays beside these, starts again what crashes, and ends all of it on Ctrl-C.

Each part is an ordinary command of the README in a child process; nothing runs in here. What it
is doing goes to standard error; standard output gets the address on a line of its own
(`Thyme listens on http://…`), the accounts, and how to stop. Supervision is in `children.py`,
the embedded servers in `services.py`; read `__main__.py` next for the server itself.
"""

if __name__ == "__main__":
    import os
    import sys

    # Python put thyme/ first on the path, where our http or websocket would hide others'.
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
from thyme.children import Child, ChildFailed, finish, stop_in_turn

ROOT = Path(__file__).resolve().parent.parent
CONNECT_LIMIT = 5  # seconds for Redis or Postgres of our own to answer
REDIS_PAUSE = 1.0  # second, should it die again and again
ACCOUNTS = "demo-accounts.json"  # in the state directory: passwords made on the first start


class CannotStart(Exception):
    """The chat cannot start; the message is the one sentence to show."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chat until SIGINT, SIGTERM or SIGHUP. The exit code: 0, or 1 if it cannot start."""
    chat = Chat(parse(arguments))
    stop = gevent.event.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        gevent.signal_handler(number, stop.set)
    starting = gevent.spawn(chat.start_or_explain)
    try:
        gevent.wait([starting, stop], count=1)
        if starting.ready() and starting.get():
            say(starting.get())
            return 1
        stop.wait()
        say("Ending the chat …")
        return 0
    finally:
        starting.kill()
        chat.end()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python thyme/run.py", description="Run the finished chat; Ctrl-C ends it."
    )
    parser.add_argument("--host", default="127.0.0.1", help="listen here (default: %(default)s)")
    parser.add_argument(
        "--port", type=port_number, default=8000, help="default: %(default)s; 0 picks a free one"
    )
    parser.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="processes that run the chat"
    )
    parser.add_argument("--no-demo", action="store_true", help="make no demo rooms and accounts")
    return parser.parse_args(arguments)


def port_number(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def say(line: object) -> None:
    print(line, file=sys.stderr, flush=True)


class Chat:
    """The running chat: its options, and the children that it consists of."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.workers: list[Child] = []
        self.server: list[Child] = []
        self.watcher: gevent.Greenlet | None = None

    def start_or_explain(self) -> Exception | None:
        """Start everything. What prevented it, for a person to read, or None."""
        try:
            self.start()
        except (CannotStart, ChildFailed, services.ServiceError) as problem:
            return problem
        return None

    def start(self) -> None:
        check_port(self.options.host, self.options.port)
        if embedded := find_services():
            self.watcher = gevent.spawn(keep_redis, embedded)
        say("Bringing the database up to date …")
        with one_at_a_time():
            accounts = self.prepare_database()
        say(f"Starting {count(self.options.workers, 'worker')} and the server …")
        self.start_children()
        for child in [*self.workers, *self.server]:
            ready = child.ready()
        self.announce(ready, accounts)

    def prepare_database(self) -> list[dict[str, str]]:
        """Migrate it, and make what is missing of the demo; the demo accounts."""
        if self.options.no_demo:
            manage("migrate", "--verbosity", "0")
            return []
        return make_demo(self.with_accounts())

    def start_children(self) -> None:
        runworker2 = [sys.executable, "manage.py", "runworker2", "--stop-on-eof"]
        numbers = range(1, self.options.workers + 1)
        self.workers = [Child(f"Worker {n}", runworker2, "Worker ", ROOT, say) for n in numbers]
        listen = ["--host", self.options.host, "--port", str(self.options.port), "--stop-on-eof"]
        thyme = [sys.executable, "-m", "thyme", "multichat.relay:application", *listen]
        self.server = [Child("The server", thyme, "Thyme listens on ", ROOT, say)]
        for child in [*self.workers, *self.server]:
            child.start()

    def with_accounts(self) -> bool:
        """Demo accounts are for a database of our own that nobody else can reach."""
        return not os.environ.get("DATABASE_URL") and is_loopback(self.options.host)

    def announce(self, listens: str, accounts: list[dict[str, str]]) -> None:
        # A server that is started again must come back where browsers look for it.
        port = listens.rpartition(":")[2]
        self.server[0].command[self.server[0].command.index("--port") + 1] = port
        print(listens)
        for account in accounts:
            print("  " + describe(account))
        if not self.with_accounts() or self.options.no_demo:
            print("  Make an account with: python manage.py createsuperuser")
        if not is_loopback(self.options.host) and not os.environ.get("DJANGO_ALLOWED_HOSTS"):
            print("  Others reach it only if DJANGO_ALLOWED_HOSTS names this host as they type it.")
        print("Press Ctrl-C to stop; the database is kept.", flush=True)

    def end(self) -> None:
        """End the server, so nobody new comes; then its workers; then what only we used."""
        stop_in_turn([self.server, self.workers])
        if self.watcher is not None:
            self.watcher.kill()
        services.stop_unused()


def describe(account: dict[str, str]) -> str:
    kind = "staff" if account["staff"] else "not staff"
    password = account["password"] or "(a password of your own)"
    return f"{account['username']:<8}{password:<16}{kind}"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_port(host: str, port: int) -> None:
    """Raise CannotStart if the server could not listen there: before anything is started."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CannotStart(f"There is no host {host} to listen on: {error.strerror}.") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise CannotStart(explain_bind(host, port, error)) from error


def explain_bind(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is in use: end what listens there, or choose another with "
            "--port (0 picks a free one)."
        )
    return (
        f"Cannot listen on {host} port {port}: {error.strerror}; choose others with --host, --port."
    )


def find_services() -> str | None:
    """Redis and Postgres answer after this: the configured ones, or else the embedded ones.

    The URL of Redis, if it is the embedded one.
    """
    embedded = None
    if url := os.environ.get("REDIS_URL"):
        check_redis(url)
    else:
        embedded = services.redis(say)
    if url := os.environ.get("DATABASE_URL"):
        check_postgres(url)
    else:
        services.postgres(say)
    return embedded


def keep_redis(url: str) -> None:
    """Start the embedded Redis again whenever it has died; the chat goes on where it was.

    The kernel tells us, by the end of a connection on which nothing is ever said.
    """
    while True:
        with socket.socket(socket.AF_UNIX) as idle, suppress(OSError):
            idle.connect(urlsplit(url).path)
            idle.recv(1)
        try:
            services.redis(say)
        except services.ServiceError as problem:
            say(problem)
        gevent.sleep(REDIS_PAUSE)


def check_redis(url: str) -> None:
    import redis

    try:
        with redis.Redis.from_url(
            url, socket_connect_timeout=CONNECT_LIMIT, socket_timeout=CONNECT_LIMIT
        ) as connection:
            connection.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise CannotStart(unreachable("Redis", "REDIS_URL", url, error)) from error


def check_postgres(url: str) -> None:
    import psycopg2

    if not url.startswith(("postgres://", "postgresql://")):
        return  # another of Django's databases: `migrate` will tell
    try:
        psycopg2.connect(url, connect_timeout=CONNECT_LIMIT).close()
    except psycopg2.Error as error:
        raise CannotStart(unreachable("Postgres", "DATABASE_URL", url, error)) from error


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two chats that start at the same moment must not both make the same tables and rooms."""
    state = services.state_directory()
    state.mkdir(parents=True, exist_ok=True)
    with (state / "migrate.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, or we die
        yield


def unreachable(label: str, variable: str, url: str, error: Exception) -> str:
    """One sentence without the URL's user, password and options: they may be secrets."""
    scheme, _, rest = url.partition("://")
    place = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
    # libpq repeats a whole URL that it cannot parse.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(url, place)
    return (
        f"{label} at {place} ({variable}) does not answer: {reason.rstrip('.')}. Start it, correct "
        f"{variable}, or unset {variable} to use the embedded one."
    )


def manage(*arguments: str) -> str:
    """What `python manage.py …` printed; ChildFailed if it failed."""
    return finish([sys.executable, "manage.py", *arguments], ROOT)


def make_demo(with_accounts: bool) -> list[dict[str, str]]:
    """Migrate, make what is missing; the accounts, with passwords where they are known."""
    arguments = ["demo", "--json", "--migrate"]  # in one process: Django takes a second to start
    if with_accounts:
        file = services.state_directory() / ACCOUNTS
        arguments += ["--accounts", "--passwords", str(file)]
    made = json.loads(manage(*arguments))
    if made["rooms_made"]:
        say(f"Made the rooms {', '.join(made['rooms_made'])}.")
    accounts: list[dict[str, str]] = made["accounts"]
    return accounts


if __name__ == "__main__":
    sys.exit(main())
