"""A keeper, run as a script: a small program stands in for the server."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from thyme.services import keeper

LIMIT = 60  # seconds; each wait ends long before it

READY = "print('Ready to accept connections', flush=True);"
FOREVER = f"import signal; {READY} signal.pause()"


class Keeper:
    """A keeper with a job in `folder`, whose server runs `program`."""

    def __init__(self, folder: Path, program: str) -> None:
        self.file = folder / "redis.keeper"
        self.users = folder / "redis.users"
        self.sockets = folder / "sockets"
        self.sockets.mkdir()
        start = os.open(folder / "redis.start", os.O_RDWR | os.O_CREAT)
        self.job: keeper.Job = {
            "command": [sys.executable, "-c", program],
            "user": None,
            "group": None,
            "log": str(folder / "redis.log"),
            "stop_signal": signal.SIGTERM,
            "force_signal": signal.SIGKILL,
            "users": str(self.users),
            "keeper": str(self.file),
            "start": start,
            "sockets": str(self.sockets),
            "socket": str(self.sockets / "redis.sock"),
            "url": "unix://redis.sock",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[start],
            text=True,
        )
        os.close(start)

    def give_job(self) -> None:
        assert self.process.stdin
        json.dump(self.job, self.process.stdin)
        self.process.stdin.close()

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.read().strip()

    def pid(self) -> int:
        return int(json.loads(self.file.read_text())["pid"])

    def close(self) -> None:
        if self.file.exists() and self.file.read_text():
            os.kill(self.pid(), signal.SIGKILL)
        with self.process:
            self.process.kill()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Keeper]]:
    """start(program) gives a keeper that waits for its job."""
    started: list[Keeper] = []

    def one(program: str) -> Keeper:
        started.append(Keeper(tmp_path, program))
        return started[-1]

    yield one
    for each in started:
        each.close()


def test_a_keeper_reports_its_server_and_stops_it_when_the_last_user_is_gone(
    start: Callable[[str], Keeper],
) -> None:
    one = start(FOREVER)
    user = os.open(one.users, os.O_RDWR | os.O_CREAT)
    fcntl.flock(user, fcntl.LOCK_SH)
    one.give_job()
    assert one.answer() == "ready"
    assert json.loads(one.file.read_text())["url"] == one.job["url"]
    (server,) = psutil.Process(one.pid()).children()
    os.close(user)
    eventually(lambda: not one.sockets.exists())
    assert one.file.read_text() == ""
    assert not server.is_running()


def test_a_server_that_exits_before_it_is_ready_is_reported(
    start: Callable[[str], Keeper],
) -> None:
    one = start("raise SystemExit(3)")
    one.give_job()
    assert one.answer() == "it exited with code 3"
    eventually(lambda: not one.sockets.exists())


def test_a_keeper_whose_starter_was_killed_still_cleans_up(start: Callable[[str], Keeper]) -> None:
    one = start(FOREVER)
    assert one.process.stdout
    one.process.stdout.close()  # as the kernel does when the starter dies; nobody uses the server
    one.give_job()
    eventually(lambda: not one.sockets.exists())
    assert one.file.read_text() == ""
