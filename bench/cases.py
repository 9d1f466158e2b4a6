"""The cases: the work, the servers that do it, and the unit in which it is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import servers
from bench.measures import (
    Result,
    burst,
    echo,
    first_answer,
    flood,
    idle_calls,
    memory,
    pages,
    rooms,
)
from bench.servers import NULL, Running, Server


@dataclass(frozen=True)
class Case:
    """A case: the servers, the unit of `per_cpu_second`, and the function that does the work."""

    name: str
    title: str
    unit: str
    servers: list[Server]
    run: Callable[[Running, float], Result]
    better: str = "per_cpu_second"
    """The figure by which servers are compared; see `LESS_IS_BETTER`."""


PAGES = [NULL, *servers.NO_LAYER, servers.GUNICORN]
CONSUMERS = [NULL, *servers.NO_LAYER]
ROOMS = [NULL, *servers.ROOMS]
IDLE = [servers.ONE, servers.SPLIT_1, *servers.CORE]

CASES = [
    Case("raw-page", "A page without Django", "pages", [NULL, *servers.RAW],
         pages("page", 20, 900)),
    Case("raw-echo", "An echo without Django", "messages", [NULL, *servers.RAW],
         echo("", 50, 1000)),
    Case("page", "A trivial Django page", "pages", PAGES, pages("page", 20, 60)),
    Case("query", "A Django page with one query", "pages", PAGES, pages("query", 20, 30)),
    Case("echo", "A synchronous consumer that echoes", "messages", CONSUMERS,
         echo("echo", 50, 60)),
    Case("async-echo", "An asynchronous consumer that echoes", "messages", CONSUMERS,
         echo("async-echo", 50, 80)),
    Case("room-100", "A room of 100", "delivered", ROOMS, rooms(1, 100, 40)),
    Case("room-500", "A room of 500", "delivered", ROOMS, rooms(1, 500, 10)),
    Case("rooms-10", "Fifty rooms of 10", "delivered", ROOMS, rooms(50, 10, 8)),
    Case("burst", "1,000 messages at once to a room of 100", "delivered", ROOMS,
         burst(100, 1000), "per_second"),
    Case("wait-50", "50 ms of Postgres, 50 users (ideal: 1,000/s)", "messages", CONSUMERS,
         echo("wait", 50, 20), "per_second"),
    Case("wait", "50 ms of Postgres, 100 users (ideal: 2,000/s)", "messages", CONSUMERS,
         echo("wait", 100, 20), "per_second"),
    Case("idle-0", "System calls in 10 s, no socket", "calls", IDLE, idle_calls(0), "calls"),
    Case("idle", "System calls in 10 s, 200 idle sockets", "calls", IDLE, idle_calls(200),
         "calls"),
    Case("memory", "Memory per idle socket, synchronous consumer, 500 sockets", "sockets",
         servers.NO_LAYER, memory("echo", 500), "kib_per_socket"),
    Case("memory-2000", "Memory per idle socket, synchronous consumer, 2,000 sockets", "sockets",
         servers.NO_LAYER, memory("echo", 2000), "kib_per_socket"),
    Case("async-memory", "Memory per idle socket, asynchronous consumer, 500 sockets", "sockets",
         servers.NO_LAYER, memory("async-echo", 500), "kib_per_socket"),
    Case("async-memory-2000", "Memory per idle socket, asynchronous consumer, 2,000 sockets",
         "sockets", servers.NO_LAYER, memory("async-echo", 2000), "kib_per_socket"),
    Case("raw-memory", "Memory per idle socket, without Django, 500 sockets", "sockets",
         servers.RAW, memory("", 500), "kib_per_socket"),
    Case("flood", "64 KiB messages to a client that does not read, 4 s; echoes of ten others",
         "echoes", servers.RAW, flood(4), "grown_mib"),
    Case("start", "Time from start to first response", "starts", PAGES, first_answer,
         "first_answer_s"),
]  # fmt: skip
LESS_IS_BETTER = {"calls", "grown_mib", "kib_per_socket", "first_answer_s"}
