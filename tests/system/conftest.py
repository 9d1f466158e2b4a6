"""The whole system as real processes: servers, workers, Redis, Postgres. Started once per Redis.

    two servers with relays  ──►  Redis of the test's own  ◄──  two workers ──► Postgres
    one process with everything ───────────┘ └──────────────────────────────────────┘

Every process gives its name to Redis and to Postgres, so that both can tell whose connections
they have. Postgres is the embedded one, with a database of this run's own.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg2
import pytest

from multichat import addresses
from tests.conftest import RedisServer, running_redis
from tests.system.children import Child, Start, alive, family
from tests.system.people import Browser, Page
from thyme import services

PASSWORD = "a long one for all"
USERS = {"alice": True, "bob": False, "carol": False}  # name: whether staff
FILL = f"""
from django.contrib.auth.models import User
from django.core.management import call_command
call_command("migrate", verbosity=0)
for name, staff in {USERS}.items():
    User.objects.create_user(name, password={PASSWORD!r}, is_staff=staff, is_superuser=staff)
"""


@dataclass
class System:
    """A running chat. `url`s are those of its servers."""

    redis: RedisServer
    database: str
    servers: dict[str, Child]
    workers: dict[str, Child]
    whole: Child
    urls: dict[str, str]

    def redis_connections(self) -> dict[str, int]:
        """How many connections each of our processes has to Redis."""
        counts: dict[str, int] = {}
        for client in self._client_list():
            fields = dict(field.partition("=")[::2] for field in client.split(" "))
            counts[fields["name"]] = counts.get(fields["name"], 0) + 1
        counts.pop("", None)  # the one that asks
        return counts

    def _client_list(self) -> list[str]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.redis.socket))
            connection.sendall(b"CLIENT LIST\r\n")
            with connection.makefile("rb") as reply:
                size = int(reply.readline()[1:])
                return reply.read(size).decode().splitlines()


def environment(redis: RedisServer, database: str, name: str) -> dict[str, str]:
    """Where things are, for one process, which says its name to both."""
    return {
        "REDIS_URL": f"{redis.url}?client_name={name}",
        "DATABASE_URL": f"{database}?application_name={name}",
    }


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The URL of a migrated database with our users, dropped at the end."""
    state = addresses.state_directory()
    url = services.postgres(state, database=addresses.DATABASE, role=addresses.ROLE)
    name = f"system_{secrets.token_hex(4)}"
    # CREATE DATABASE cannot be in a transaction, which `with connection` would begin.
    with contextlib.closing(psycopg2.connect(url)) as admin:
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            try:
                fresh = urlsplit(url)._replace(path=f"/{name}").geturl()
                with family() as start:
                    places = {"DATABASE_URL": fresh, "REDIS_URL": "unix:///nowhere"}
                    start("shell", "manage.py", "shell", "-v0", "-c", FILL, **places).output()
                yield fresh
            finally:
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session", params=["valkey", "redis"])
def system_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """The Redis of one running system: all tests run with one kind, then with the other."""
    with running_redis(request.param) as server:
        yield server


@pytest.fixture(scope="session")
def system(system_redis: RedisServer, database: str) -> Iterator[System]:
    """Two servers, two workers and a process that is both, on one Redis and one Postgres."""
    with family() as start:

        def run(name: str, *arguments: str) -> Child:
            return start(name, *arguments, **environment(system_redis, database, name))

        workers = {
            n: run(n, "manage.py", "runworker2", "--stop-on-eof") for n in ("worker-1", "worker-2")
        }
        servers = {n: serve(run, n, "multichat.relay") for n in ("server-1", "server-2")}
        whole = serve(run, "whole", "multichat.asgi")
        for worker in workers.values():
            worker.line("Worker ")
        urls = {s.name: s.line("Thyme listens on ") for s in [*servers.values(), whole]}
        yield System(system_redis, database, servers, workers, whole, urls)


def serve(run: Start, name: str, module: str, port: int = 0) -> Child:
    """A server, which has yet to say that it listens."""
    application = f"{module}:application"
    return run(name, "-m", "thyme", application, "--port", str(port), "--stop-on-eof")


@pytest.fixture(
    params=[("server-1", "server-2"), ("whole", "whole"), ("server-1", "whole")],
    ids=["two servers", "one process", "one of each"],
)
def places(request: pytest.FixtureRequest, system: System) -> tuple[str, str]:
    """Two addresses to meet from: two servers; one process for all; one of each."""
    first, second = request.param
    return system.urls[first], system.urls[second]


@pytest.fixture
def sql(database: str) -> Iterator[Callable[..., list[tuple]]]:
    """sql(statement, *values): run it by itself, past the chat; the rows it gives."""
    with contextlib.closing(psycopg2.connect(database)) as connection:
        connection.autocommit = True

        def run(statement: str, *values: object) -> list[tuple]:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture
def new_room(sql: Callable[..., list[tuple]]) -> Iterator[Callable[..., int]]:
    """new_room(title, staff_only=False): a room nobody else is in; its id."""
    made: list[int] = []

    def make(title: str, staff_only: bool = False) -> int:
        statement = "INSERT INTO chat_room (title, staff_only) VALUES (%s, %s) RETURNING id"
        ((room,),) = sql(statement, title, staff_only)
        made.append(room)
        return room

    yield make
    sql("DELETE FROM chat_room WHERE id = ANY(%s)", made)


@pytest.fixture
def room(new_room: Callable[..., int]) -> int:
    """A room for everybody."""
    return new_room("Garden")


@pytest.fixture
def staff_room(new_room: Callable[..., int]) -> int:
    return new_room("Office", staff_only=True)


@pytest.fixture(scope="session")
def browsers() -> dict[str, Browser]:
    """Who has logged in so far: sessions are in Postgres, so they hold on every server."""
    return {}


@pytest.fixture
def browser_of(browsers: dict[str, Browser]) -> Callable[[str, str], Browser]:
    """browser_of(name, url): the browser of that user, who logs in at `url` the first time."""

    def find(name: str, url: str) -> Browser:
        if name not in browsers:
            browser = Browser()
            browser.log_in(url, name, PASSWORD)
            browsers[name] = browser
        return browsers[name]

    return find


@pytest.fixture
def enter(browser_of: Callable[[str, str], Browser]) -> Iterator[Callable[[str, str], Page]]:
    """enter(url, name): a page of that user; closed at the end, if it is still open."""
    pages: list[Page] = []

    def open_page(url: str, name: str) -> Page:
        pages.append(Page(url, browser_of(name, url).cookie))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """A failure shows what the processes that ran said last."""
    report = yield
    if report.failed:
        for child in alive:
            report.sections.append((f"standard error of {child.name}", child.said()))
    return report
