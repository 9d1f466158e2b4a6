"""The combinations that the contract and the faults are tried on: driver × carrier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from gredis.drivers.asyncio import AsyncioCrossbar
from gredis.drivers.gevent import GeventCrossbar
from tests.conftest import RedisServer, running_redis
from tests.contract.hubs import Hub, running_hub
from thyme.loop.event_loop import HubLoop

Run = Callable[[Awaitable[Any]], Any]

LOOPS = {"gevent": HubLoop, "asyncio": asyncio.SelectorEventLoop}
PLACES = ["valkey", "redis", "hub"]
DEADLINE = 60  # s for one coroutine: much more than it takes, also where a machine stands still


@pytest.fixture(params=[f"{loop}-{place}" for loop in LOOPS for place in PLACES] + ["in-memory"])
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Driver and carrier, or Channels' own layer."""
    loop, _, place = request.param.partition("-")
    return ("asyncio", "in-memory") if place == "memory" else (loop, place)


@pytest.fixture
def server(kind: tuple[str, str]) -> Iterator[Hub | RedisServer | None]:
    """The other side of the crossbar: it has a `url`, and can be killed and started again."""
    if kind[1] == "in-memory":
        yield None
    elif kind[1] == "hub":
        with running_hub() as hub:
            yield hub
    else:
        with running_redis(kind[1]) as redis_server:
            yield redis_server


@pytest.fixture
def url(server: Hub | RedisServer | None) -> str:
    """Return its URL."""
    return server.url if server is not None else ""


@pytest.fixture
def run(kind: tuple[str, str]) -> Iterator[Run]:
    """Runs coroutines on one loop, each until `DEADLINE`."""
    with asyncio.Runner(loop_factory=LOOPS[kind[0]]) as runner:

        async def limited(coroutine: Awaitable[Any]) -> Any:
            async with asyncio.timeout(DEADLINE):
                return await coroutine

        yield lambda coroutine: runner.run(limited(coroutine))


Crossbar = GeventCrossbar | AsyncioCrossbar
CROSSBARS = {"gevent": GeventCrossbar, "asyncio": AsyncioCrossbar}


@pytest.fixture
def make_client(kind: tuple[str, str], url: str, run: Run) -> Iterator[Callable[..., Crossbar]]:
    """Makes ends of the crossbar, one per "process"; to be called on the loop."""
    made: list[Crossbar] = []

    def make(**options: Any) -> Crossbar:
        made.append(CROSSBARS[kind[0]](url, **options))
        made[-1].start()
        return made[-1]

    async def close() -> None:
        for one in made:
            if (closing := one.close()) is not None:
                await closing

    yield make
    run(close())
