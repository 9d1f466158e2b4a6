"""One server and some workers, each a process of its own, on a Redis of the test's own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import websocket

from tests.conftest import RedisServer, running_redis
from tests.system.children import DEADLINE, Child, family


class Site:
    """A thyme server with a relay, and workers on one kind of loop."""

    def __init__(self, redis: RedisServer, start: Callable[..., Child], loop: str) -> None:
        self.redis, self._start, self.loop = redis, start, loop
        self.server: Child | None = None
        self.url = ""

    def serve(self, **environment: str) -> str:
        """Start the server; its URL."""
        self.server = self._start(
            "server",
            *("-m", "thyme", "tests.faults.relay_child:application", "--port", "0"),
            REDIS_URL=self.redis.url,
            **{"WAIT_SECONDS": str(DEADLINE), **environment},
        )
        self.url = self.server.line("Thyme listens on ")
        return self.url

    def work(self, name: str = "worker", drain_seconds: float = 1) -> Child:
        """Start a worker."""
        place = "tests.faults.worker_child"
        child = self._start(name, "-m", place, self.loop, self.redis.url, str(drain_seconds))
        child.line("ready")
        return child

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    @contextlib.contextmanager
    def socket(self, path: str) -> Iterator[websocket.WebSocket]:
        """A WebSocket to the server, closed at the end."""
        place = self.url.replace("http", "ws", 1) + path
        opened = websocket.create_connection(place, timeout=DEADLINE)
        try:
            yield opened
            opened.close()
        finally:
            opened.shutdown()  # close() leaves open what the server has closed


@pytest.fixture(params=["gevent", "asyncio"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_redis("valkey") as redis, family() as start:
        yield Site(redis, start, request.param)


def wait_until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Poll until it is so; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
