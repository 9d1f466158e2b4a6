"""The loop in a Django site under `gunicorn -k gevent`: the cases of the threads, one by one.

Each fails on asyncio's own loop, and passes with the three lines of `CONFIGURATION`. The site is
`gunicorn_site.py`; one gunicorn without those lines and two with them serve all tests.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import psycopg2
import pytest

from multichat.addresses import database_url

ROOT = Path(__file__).parents[3]
DEADLINE = 90  # seconds for what takes one
LOCK = os.getpid()  # the number of an advisory lock that no other test run takes

SITE = "tests.thyme.loop.gunicorn_site"
OPTIONS = ["-k", "gevent", "--graceful-timeout", "1"]

CONFIGURATION = """\
def post_worker_init(worker):
    import thyme.loop

    thyme.loop.install()
"""
"""gunicorn.conf.py: the hook runs when gevent has patched the worker, before its first request."""

PSYCOGREEN = """\
def post_fork(server, worker):
    from psycogreen.gevent import patch_psycopg
    patch_psycopg()
"""
"""What a site with PostgreSQL has in the same file, so that queries wait in the hub."""

PRELOADED = """\
from gevent import monkey
monkey.patch_all()
"""
"""How the file must begin with `--preload`, which imports the site before gunicorn has patched."""


class Site:
    """`gunicorn -k gevent` with one worker, on a socket that listens before it starts."""

    def __init__(self, folder: Path, configuration: str, *options: str) -> None:
        (folder / "gunicorn.conf.py").write_text(configuration)
        self.address: tuple[str, int]
        self._threads = ThreadPoolExecutor(4)
        with socket.create_server(("127.0.0.1", 0)) as listener, (folder / "log").open("w") as log:
            self.address = listener.getsockname()
            bind = f"fd://{listener.fileno()}"
            command = ["-m", "gunicorn", *OPTIONS, *options, "-b", bind, SITE]
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                pass_fds=[listener.fileno()],
                stderr=log,
                env=os.environ
                | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "SITE_LOCK": str(LOCK)}
                | {"SITE_SQLITE": "site.sqlite3", "SITE_POSTGRES": database_url()},
            )

    def get(self, name: str) -> str:
        connection = HTTPConnection(*self.address, timeout=DEADLINE)
        try:
            connection.request("GET", f"/{name}", headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def getting(self, name: str) -> Future[str]:
        return self._threads.submit(self.get, name)

    def stop(self) -> int:
        self._threads.shutdown()
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@pytest.fixture(scope="module")
def site_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    ours = PSYCOGREEN + CONFIGURATION
    sites = {
        "stock": Site(tmp_path_factory.mktemp("stock"), PSYCOGREEN),
        "ours": Site(tmp_path_factory.mktemp("ours"), ours),
        "preloaded": Site(tmp_path_factory.mktemp("preloaded"), PRELOADED + ours, "--preload"),
    }
    yield sites
    assert [site.stop() for site in sites.values()] == [0, 0, 0]


def meanwhile(site: Site, holding: str, ask: Callable[[], str]) -> str:
    """What `ask` gets while a page is inside its loop; that page must end well."""
    assert site.get("begin") == "begun"
    held = site.getting(holding)
    assert site.get("inside") == "True"
    try:
        return ask()
    finally:
        assert site.get("go") == "gone"
        assert held.result(DEADLINE) == "stayed"


CASES = [
    # gunicorn #3000, #3053, #3428, #3429, asyncio-gevent #13: one view runs a loop, and the ORM
    # fails in all the others
    ("hold-run", "orm", "SynchronousOnlyOperation: You cannot", "1 types"),
    ("hold-async-to-sync", "orm", "SynchronousOnlyOperation: You cannot", "1 types"),
    # asgiref #356, #443: two views call async_to_sync at the same time
    ("hold-async-to-sync", "async-to-sync", "RuntimeError: You cannot use AsyncToSync", "abc"),
    ("hold-async-to-sync", "sync-to-async", "RuntimeError: You cannot use AsyncToSync", "1 types"),
    # channels #1799: a synchronous view sends to a group
    ("hold-async-to-sync", "group-send", "RuntimeError: You cannot use AsyncToSync", "sent"),
    # gunicorn #3053 again: two views call asyncio.run
    ("hold-run", "run", "RuntimeError: asyncio.run() cannot be called", "abc"),
    # flask #5881, for Django: asynchronous views under WSGI
    ("hold-async-view", "async-view", "RuntimeError: You cannot use AsyncToSync", "1 types"),
    ("hold-async-view", "orm", "SynchronousOnlyOperation: You cannot", "1 types"),
]


@pytest.mark.parametrize(("holding", "asking", "complaint", "answer"), CASES)
def test_a_page_answers_while_another_runs_a_loop(site_of, holding, asking, complaint, answer):
    answers = {
        name: meanwhile(site, holding, partial(site.get, asking)) for name, site in site_of.items()
    }
    assert answers.pop("stock").startswith(complaint)
    assert answers == {"ours": answer, "preloaded": answer}


@pytest.mark.parametrize(
    ("which", "answer"),
    [
        ("stock", "SynchronousOnlyOperation: You cannot"),
        ("ours", "both"),
        ("preloaded", "both"),
    ],
)
def test_a_page_goes_on_when_a_loop_has_started_during_its_query(site_of, which, answer):
    # Between two statements of one page: this is why the complaints say "at random".
    site = site_of[which]
    limit = f"-c statement_timeout={DEADLINE}s"
    connection = psycopg2.connect(database_url(), options=limit)
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        assert site.get("begin") == "begun"
        asking = site.getting("postgres")
        assert site.get("inside") == "True"  # its query waits, and other pages do not

        def query_ended() -> str:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
            return asking.result(DEADLINE)

        assert meanwhile(site, "hold-run", query_ended).startswith(answer)
