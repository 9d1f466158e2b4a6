"""Fixtures: programs that run on the fast path and on the stock path; a relay with workers."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import pytest

from gredis.drivers.gevent import GeventCrossbar
from gredis.errors import Closed
from tests.conftest import RedisServer
from thyme.asgi import BlockingApplication
from thyme.split.relay import gevent as relay_module
from thyme.split.relay.gevent import Relay
from thyme.split.worker.gevent import Worker


@pytest.fixture(scope="module")
def child() -> Iterator[subprocess.Popen[str]]:
    """The patched process that runs the programs, one after another."""
    command = [sys.executable, "-m", "tests.thyme.fastpath.site"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 0


class Paths:
    """Runs programs in the child, on the fast path, the stock path, or both."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child

    def run(self, program: str, *, stock: bool) -> str:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        order: dict[str, Any] = {"program": textwrap.dedent(program), "STOCK": stock}
        print(json.dumps(order), file=self.child.stdin, flush=True)
        answer = json.loads(self.child.stdout.readline())
        assert answer["error"] is None, answer["error"]
        return str(answer["printed"]).strip()

    def both(self, program: str) -> str:
        """Return what `program` prints, which must be the same on both paths."""
        stock, fast = self.run(program, stock=True), self.run(program, stock=False)
        assert fast == stock
        return fast

    def fast(self, program: str) -> str:
        """Return what `program` prints on the fast path."""
        return self.run(program, stock=False)


@pytest.fixture
def paths(child: subprocess.Popen[str]) -> Paths:
    return Paths(child)


Start = Callable[..., tuple[GeventCrossbar, Worker]]


@pytest.fixture
def server(redis_server: RedisServer, monkeypatch) -> Iterator[Relay]:
    crossbar = GeventCrossbar(redis_server.url)
    monkeypatch.setattr(relay_module, "connect", lambda url, prefix: crossbar)
    with gevent.Timeout(60):
        crossbar.open()
        yield Relay(redis_server.url)
        crossbar.close()


@pytest.fixture
def start(redis_server: RedisServer) -> Iterator[Start]:
    """Starts a worker with an application; they are stopped at the end."""
    running: list[tuple[Worker, gevent.Greenlet]] = []

    def start_worker(application: BlockingApplication, **options):
        crossbar = GeventCrossbar(redis_server.url)
        worker = Worker(application, crossbar, **options)
        ready = gevent.event.Event()
        running.append((worker, gevent.spawn(worker.run, ready.set)))
        ready.wait()
        return crossbar, worker

    yield start_worker
    for worker, greenlet in running:
        worker.drain_seconds = 0.2
        worker.stop()
        with suppress(Closed):  # those that the test has killed
            greenlet.get(timeout=60)
