"""The servers: the commands that start them, and the CPU time and memory that they use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers" / "bin"
START_SECONDS = 30.0


@dataclass(frozen=True)
class Server:
    """One way to serve: command (`{port}` is replaced), environment, and number of workers."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    workers: int = 0


def is_peer(name: str) -> bool:
    """Return True if the server is not one of ours."""
    return name != NULL.name and not name.startswith("thyme")


def _thyme(name: str, application: str, *options: str, layer: str = "gredis", workers: int = 0):
    command = (sys.executable, "-m", "thyme", application, "--port", "{port}", *options)
    environment = {
        "BENCH_LAYER": layer,
        "BENCH_GEVENT": "1",
        "BENCH_THYME": "1",
        "BENCH_ENGINE": "multichat.postgres",
    }
    return Server(name, command, environment, workers)


def _peer(name: str, program: str, *arguments: str, layer: str = "core", **environment: str):
    command = (str(PEERS / program), *arguments)
    return Server(name, command, {"BENCH_LAYER": layer, **environment})


def _uvicorn(name: str, application: str, layer: str = "core", *more: str):
    options = ("--port", "{port}", "--log-level", "warning", "--no-access-log", *more)
    return _peer(name, "uvicorn", application, *options, layer=layer)


def _asgi_peers(suffix: str, layer: str) -> list[Server]:
    application = "bench.application:application"
    return [
        _uvicorn(f"uvicorn{suffix}", application, layer),
        _peer(
            f"daphne{suffix}", "daphne", "-p", "{port}", "-v", "0", application, layer=layer
        ),
        _peer(
            f"hypercorn{suffix}", "hypercorn", "-b", "127.0.0.1:{port}", application, layer=layer
        ),
    ]  # fmt: skip


NULL = Server("null", (sys.executable, "-m", "bench.null", "{port}"))
"""The limits of the generator and of this machine; see `null.py`."""

APPLICATION = "bench.application:application"
ONE = _thyme("thyme", APPLICATION)
SPLIT_1 = _thyme("thyme split, 1 worker", "bench.relay:application", workers=1)
SPLIT_2 = _thyme("thyme split, 2 workers", "bench.relay:application", workers=2)
NO_LAYER = [
    _thyme("thyme", APPLICATION, layer="none"),
    _thyme("thyme --stock", APPLICATION, "--stock", layer="none"),
    *_asgi_peers("", "none"),
]
GUNICORN = _peer(
    "gunicorn -k gevent",
    "gunicorn",
    *("-k", "gevent", "-b", "127.0.0.1:{port}", "--keep-alive", "60", "--log-level", "warning"),
    "bench.application:wsgi",
    layer="none",
    BENCH_GEVENT="1",
)
RAW = [
    _thyme("thyme, esque", "bench.raw:esque", layer="none"),
    _thyme("thyme, ASGI", "bench.raw:asgi", layer="none"),
    _uvicorn("uvicorn", "bench.raw:asgi", "none"),
    _uvicorn("uvicorn, asyncio's loop", "bench.raw:asgi", "none", "--loop", "asyncio"),
    _peer("daphne", "daphne", "-p", "{port}", "-v", "0", "bench.raw:asgi"),
    _peer("hypercorn", "hypercorn", "-b", "127.0.0.1:{port}", "bench.raw:asgi"),
]
CORE = _asgi_peers(", core", "core")
ROOMS = [ONE, SPLIT_1, SPLIT_2, *CORE, *_asgi_peers(", pubsub", "pubsub")]


class Running:
    """A running server: its port, its processes, and the seconds until its first response."""

    def __init__(
        self, port: int, processes: list[subprocess.Popen[bytes]], first_answer_seconds: float
    ) -> None:
        self.port = port
        self.processes = processes
        self.first_answer_seconds = first_answer_seconds

    def _all(self) -> list[psutil.Process]:
        found = []
        for process in self.processes:
            parent = psutil.Process(process.pid)
            found += [parent, *parent.children(recursive=True)]
        return found

    def cpu(self) -> float:
        """Return the CPU seconds that all its processes have used, with nanosecond resolution."""
        return sum(time.clock_gettime(_cpu_clock(process.pid)) for process in self._all())

    def memory(self) -> int:
        """Return the unique memory (USS) of all its processes, in bytes."""
        return sum(process.memory_full_info().uss for process in self._all())

    def pids(self) -> list[int]:
        """Return the ids of all its processes."""
        return [process.pid for process in self._all()]


def _cpu_clock(pid: int) -> int:
    """Return the id of the CPU-time clock of a process, as clock_getcpuclockid(3) on Linux."""
    return (~pid << 3) | 2


@contextmanager
def running(server: Server, services: dict[str, str]) -> Iterator[Running]:
    """Start a server, wait until it answers, and stop it afterwards."""
    port = _free_port()
    environment = os.environ | services | server.environment | {"PYTHONPATH": str(ROOT)}
    commands = [tuple(part.replace("{port}", str(port)) for part in server.command)]
    commands += [(sys.executable, str(ROOT / "bench" / "worker.py"))] * server.workers
    started = time.perf_counter()
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=ROOT,
                         stderr=None if os.environ.get("BENCH_LOG") else subprocess.DEVNULL)
        for command in commands
    ]  # fmt: skip
    try:
        _wait_until_it_answers(port, processes)
        yield Running(port, processes, time.perf_counter() - started)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(port: int, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 10) as probe:
                probe.sendall(b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if b"200" in probe.recv(100):
                    return
        except OSError:
            pass
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("the server exited; set BENCH_LOG=1 to see its output")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server did not answer within {START_SECONDS} s")
        time.sleep(0.01)
