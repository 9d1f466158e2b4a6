"""`python thyme/run.py`, as a person or a program starts it: real processes, a real address.

One chat runs for the tests that look at it. The others start their own in a second temporary
state directory that they share, as the starts of one checkout do.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import psutil
import pytest

from multichat import addresses
from thyme import run as program
from thyme import services
from thyme.services.engines import Account, data_home

ROOT = Path(__file__).parents[2]
DEADLINE = 120  # seconds; a start takes 3, the first one 6
CONFIGURED = ("REDIS_URL", "DATABASE_URL", "DJANGO_ALLOWED_HOSTS", "THYME_STATE")


class Run:
    """One start of run.py."""

    def __init__(self, state: Path, *arguments: str, **environment: str):
        inherited = {k: v for k, v in os.environ.items() if k not in CONFIGURED}
        self.state = state
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "thyme" / "run.py"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            cwd=state.parent,  # anywhere but the checkout
            env={**inherited, "THYME_STATE": str(state), **environment},
        )
        self.patience = threading.Timer(DEADLINE, self.process.kill)
        self.patience.start()

    def said(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read()

    def lines_until(self, start: str) -> list[str]:
        """Lines of standard output, the last of which begins with `start`."""
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip())
            if line.startswith(start):
                return lines
        raise AssertionError(f"no line {start!r} in {lines}; standard error: {self.said()}")

    def address(self) -> str:
        return self.lines_until("Thyme listens on http://")[-1].removeprefix("Thyme listens on ")

    def rest(self) -> list[str]:
        """The lines after the address. From here on there is no hurry."""
        lines = self.lines_until("Press Ctrl-C")
        self.patience.cancel()
        return lines

    def processes(self) -> list[psutil.Process]:
        """Ours, our children's, and those of the embedded servers."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        for file in self.state.glob("*.keeper"):
            if text := file.read_text():
                keeper = psutil.Process(json.loads(text)["pid"])
                family += [keeper, *keeper.children(recursive=True)]
        return family

    def child(self, word: str) -> psutil.Process:
        """The child process with `word` in its command line."""
        children = psutil.Process(self.process.pid).children()
        (found,) = [child for child in children if word in child.cmdline()]
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.exit_code()

    def exit_code(self) -> int:
        code = self.process.wait(DEADLINE)
        self.patience.cancel()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.end()
        self.patience.cancel()
        self.process.stdout.close()
        self.stderr.close()


@contextlib.contextmanager
def temporary_state():
    directory = Path(tempfile.mkdtemp(prefix="thyme-test-")).resolve()
    state = directory / "state"
    yield state
    services.stop_unused(state)
    shutil.rmtree(data_home(state, Account.unprivileged()), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def state():
    with temporary_state() as state:
        yield state


@pytest.fixture
def run(state):
    started = []

    def start(*arguments: str, **environment: str) -> Run:
        started.append(Run(state, *arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def running():
    """A chat that several tests look at."""
    with temporary_state() as state:
        run = Run(state, "--port", "0", "--workers", "2")
        try:
            run.url = run.address()
            run.accounts = run.rest()
            yield run
        finally:
            run.close()


def wait_until(condition) -> bool:
    deadline = time.monotonic() + DEADLINE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def nothing_listens(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urllib.parse.urlsplit(url).port)) != 0


def can_log_in(url: str, name: str, password: str) -> bool:
    """Log in as a browser does: a form with a token, and cookies."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with browser.open(f"{url}/accounts/login/", timeout=DEADLINE) as page:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.read().decode())[1]
    form = {"csrfmiddlewaretoken": token, "username": name, "password": password, "next": "/"}
    with browser.open(f"{url}/accounts/login/", urllib.parse.urlencode(form).encode()) as page:
        return urllib.parse.urlsplit(page.url).path == "/"


def accounts(lines: list[str]) -> dict[str, str]:
    return dict(line.split()[:2] for line in lines if line.startswith("  "))


# --- while it runs ------------------------------------------------------------------------


def test_the_address_it_prints_answers(running):
    with urllib.request.urlopen(f"{running.url}/accounts/login/", timeout=DEADLINE) as page:
        assert page.status == 200


def test_it_says_what_it_does(running):
    said = running.said()
    for step in ("PostgreSQL", "Redis", "database", "2 workers"):
        assert step in said


def test_the_accounts_it_prints_can_log_in(running):
    printed = accounts(running.accounts)
    assert printed.keys() == {"alice", "bob"}
    assert all(can_log_in(running.url, *account) for account in printed.items())


def test_a_killed_worker_is_started_again_after_one_clear_sentence(running):
    children = psutil.Process(running.process.pid).children()
    worker = next(child for child in children if "runworker2" in child.cmdline())
    worker.kill()
    said = re.compile(r"^Worker \d was terminated by SIGKILL; restarting it (now|in .* s)\.$", re.M)
    assert wait_until(lambda: said.search(running.said()))
    assert wait_until(lambda: "takes connections" in running.said())
    with urllib.request.urlopen(f"{running.url}/accounts/login/", timeout=DEADLINE) as page:
        assert page.status == 200


def test_a_killed_server_comes_back_on_the_same_port(running):
    running.child("thyme").kill()
    assert wait_until(lambda: "The server was terminated by SIGKILL" in running.said())
    assert wait_until(lambda: not nothing_listens(running.url))


def test_a_killed_redis_is_started_again_and_the_chat_goes_on(running):
    """The same workers and the same server: only they can tell the new one who they are."""
    before = {child.pid for child in psutil.Process(running.process.pid).children()}
    for _ in range(2):
        redis = next(each for each in running.processes() if "valkey" in each.name())
        starts = running.said().count("Starting Valkey")
        redis.kill()
        assert wait_until(lambda starts=starts: running.said().count("Starting Valkey") > starts)
        with urllib.request.urlopen(f"{running.url}/accounts/login/", timeout=DEADLINE) as page:
            assert page.status == 200
    assert {child.pid for child in psutil.Process(running.process.pid).children()} == before


def test_a_port_in_use_is_one_clear_sentence_before_anything_starts(run, running, tmp_path):
    port = str(urllib.parse.urlsplit(running.url).port)
    second = Run(tmp_path / "untouched", "--port", port)
    assert second.exit_code() == 1
    assert re.fullmatch(rf"Port {port} on 127.0.0.1 is in use: .*--port.*\n", second.said())
    assert not second.state.exists()
    second.close()


def test_it_uses_the_same_servers_as_the_commands_that_it_runs(monkeypatch, tmp_path):
    assert program.DATABASE == addresses.DATABASE == addresses.ROLE
    for value in ("", str(tmp_path)):
        monkeypatch.setenv("THYME_STATE", value)
        assert program.state_directory() == addresses.state_directory()


# --- its end ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_everything_and_the_next_start_keeps_the_data(run, number):
    first = run("--port", "0")
    url, shown = first.address(), first.rest()
    family = first.processes()
    assert len(family) >= 6, "a worker, a server, two keepers, Valkey, PostgreSQL"
    assert first.end(number) == 0
    assert wait_until(lambda: all(map(gone, family)))
    assert wait_until(lambda: nothing_listens(url))
    assert "Traceback" not in first.said()
    second = run("--port", "0")
    second.address()
    assert second.rest() == shown, "the same accounts with the same passwords"
    assert "Created the rooms" not in second.said()


def test_a_signal_while_it_starts_ends_it_too(run):
    starting = run("--port", "0")
    assert wait_until(lambda: "Migrating the database" in starting.said())
    family = starting.processes()
    assert starting.end() == 0
    assert wait_until(lambda: all(map(gone, family)))
    assert "Traceback" not in starting.said()


def test_kill_9_leaves_no_process_behind(run):
    one = run("--port", "0")
    url = one.address()
    family = one.processes()
    one.end(signal.SIGKILL)
    assert wait_until(lambda: all(map(gone, family)))
    assert wait_until(lambda: nothing_listens(url))


def test_a_second_chat_shares_the_servers_and_the_last_one_ends_them(run):
    first, second = run("--port", "0"), run("--port", "0")
    first.address()
    url = second.address()
    family = second.processes()
    assert first.end() == 0
    with urllib.request.urlopen(f"{url}/accounts/login/", timeout=DEADLINE) as page:
        assert page.status == 200
    assert second.end() == 0
    assert wait_until(lambda: all(map(gone, family)))


# --- options and configured services ------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("REDIS_URL", "redis://me:hidden@127.0.0.1:1/0"),
        ("REDIS_URL", "carrier-pigeon://me:hidden@roof"),
        ("DATABASE_URL", "postgresql://me:hidden@127.0.0.1:1/multichat"),
        ("DATABASE_URL", "postgresql://me:hidden@127.0.0.1:port/multichat"),
    ],
)
def test_an_unreachable_service_is_one_clear_sentence_without_the_password(run, variable, url):
    failed = run("--port", "0", **{variable: url})
    assert failed.exit_code() == 1
    last = failed.said().splitlines()[-1]
    assert re.fullmatch(rf".* \({variable}\) does not answer: .*, or unset {variable} .*\.", last)
    assert "hidden" not in failed.said()
    assert "Traceback" not in failed.said()
    assert wait_until(lambda: all(f.read_text() == "" for f in failed.state.glob("*.keeper")))


def test_configured_services_are_used_and_get_no_accounts(run, state):
    urls = {
        "REDIS_URL": services.redis(state, lambda line: None),
        "DATABASE_URL": services.postgres(
            state, lambda line: None, database="multichat", role="multichat"
        ),
    }
    try:
        one = run("--port", "0", THYME_STATE=str(state.parent / "other"), **urls)
        with urllib.request.urlopen(f"{one.address()}/accounts/login/", timeout=DEADLINE) as page:
            assert page.status == 200
        assert one.rest()[0] == "  Create an account with: python manage.py createsuperuser"
        assert one.end() == 0
        assert "Starting PostgreSQL" not in one.said()
    finally:
        services.stop_unused(state)


def test_a_chat_that_others_can_reach_has_no_demo_accounts(run):
    one = run("--port", "0", "--host", "0.0.0.0")
    one.address()
    printed = "\n".join(one.rest())
    assert "alice" not in printed
    assert "DJANGO_ALLOWED_HOSTS" in printed


def test_no_demo_makes_neither_rooms_nor_accounts(run):
    one = run("--port", "0", "--no-demo")
    one.address()
    assert "createsuperuser" in one.rest()[0]
    assert "rooms" not in one.said()


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--workers", "0"], ["--port", "x"]])
def test_a_wrong_option_says_what_is_expected(run, arguments):
    wrong = run(*arguments)
    assert wrong.exit_code() == 2
    assert "expected a" in wrong.said()
