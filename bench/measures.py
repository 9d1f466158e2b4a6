"""The work of each case, and the measurements before and after it.

Each function returns a function of a running server and a size (1: as published) that does the work
and returns a `Result`. The servers of each case are listed in `cases.py`.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles

from bench.generator import (
    ENOUGH_SECONDS,
    TEXT,
    Peer,
    close,
    connect,
    masked,
    ping_pong,
    receive_all,
    unmasked,
    websockets,
)
from bench.servers import Running

IDLE_SECONDS = 10
ATTACH_SECONDS = 1
"""For strace to attach, which interrupts a waiting process and makes it repeat its call."""
SETTLE_SECONDS = 12
"""Until threads from the start of a server have ended (gevent's resolver: 10 s)."""


@dataclass
class Result:
    """One measurement: units of work, CPU time of server and generator, and latencies."""

    units: float
    cpu_seconds: float
    seconds: float
    generator_cpu_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return the figures to keep: rates per CPU second and per second, latencies in ms."""
        figures = {
            "per_cpu_second": self.units / self.cpu_seconds if self.cpu_seconds else 0.0,
            "per_second": self.units / self.seconds,
            "generator_busy": self.generator_cpu_seconds / self.seconds,
            "generator_us": self.generator_cpu_seconds / self.units * 1e6 if self.units else 0.0,
            **self.notes,
        }
        if len(self.latencies) > 1:
            percentiles = quantiles(self.latencies, n=100)
            figures |= {"p50_ms": percentiles[49] * 1e3, "p99_ms": percentiles[98] * 1e3}
        return figures


class Clocks:
    """Measures the server's CPU time, our own, and wall time, from its creation to `result`."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.cpu, self.own, self.wall = self._read()

    def _read(self) -> tuple[float, float, float]:
        return self.running.cpu(), time.process_time(), time.perf_counter()

    def result(self, units: float, latencies: list[float], **notes: float) -> Result:
        """Return what has been used since the clocks were created."""
        cpu, own, wall = self._read()
        return Result(units, cpu - self.cpu, wall - self.wall, own - self.own, latencies, notes)


def pages(path: str, connections: int, each: int) -> Callable[[Running, float], Result]:
    """Fetch a page repeatedly on each of `connections` keep-alive connections."""

    def run(running: Running, size: float) -> Result:
        request = f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        peers = [Peer(connect(running.port)) for _ in range(connections)]
        peers[0].socket.sendall(request)
        time.sleep(0.2)
        reply_bytes = len(peers[0].socket.recv(65536))
        ping_pong(peers, request, reply_bytes, 5)  # warm
        clocks = Clocks(running)
        latencies = ping_pong(peers, request, reply_bytes, max(2, int(each * size)))
        result = clocks.result(len(latencies), latencies)
        for peer in peers:
            peer.socket.close()
        return result

    return run


def echo(path: str, connections: int, each: int) -> Callable[[Running, float], Result]:
    """Send a text on each of `connections` WebSockets, and wait for the echo, repeatedly."""

    def run(running: Running, size: float) -> Result:
        peers = websockets(running.port, [path] * connections)
        request, reply_bytes = masked(TEXT), len(unmasked(TEXT))
        ping_pong(peers, request, reply_bytes, 2)
        clocks = Clocks(running)
        latencies = ping_pong(peers, request, reply_bytes, max(2, int(each * size)))
        result = clocks.result(len(latencies), latencies)
        close(peers)
        return result

    return run


def rooms(number: int, members: int, lines: int) -> Callable[[Running, float], Result]:
    """Send from one member in each of `number` rooms, again when all have received the last."""

    def run(running: Running, size: float) -> Result:
        paths = [f"room/r{room}" for room in range(number) for _ in range(members)]
        peers = websockets(running.port, paths)
        frame, received = masked(TEXT), len(unmasked(TEXT))

        def send_round() -> float:
            for sender in peers[::members]:
                sender.socket.send(frame)
            return float(receive_all(peers, received, seconds=5))

        lost = send_round() + send_round()  # warm
        latencies, clocks, rounds = [], Clocks(running), max(2, int(lines * size))
        while len(latencies) < rounds and sum(latencies) < ENOUGH_SECONDS:
            since = time.perf_counter()
            lost += send_round()
            latencies.append(time.perf_counter() - since)
        delivered = len(latencies) * len(peers)
        result = clocks.result(delivered, latencies, lost=lost / received)
        close(peers)
        return result

    return run


def burst(members: int, lines: int) -> Callable[[Running, float], Result]:
    """Send many messages at once from one member of a room; wait until all have received them."""

    def run(running: Running, size: float) -> Result:
        peers = websockets(running.port, ["room/burst"] * members)
        count, received = max(10, int(lines * size)), len(unmasked(TEXT))
        clocks = Clocks(running)
        peers[0].socket.setblocking(True)
        peers[0].socket.sendall(masked(TEXT) * count)
        lost = receive_all(peers, received * count, seconds=5) / received
        result = clocks.result(count * members - lost, [], lost=lost)
        close(peers)
        return result

    return run


def idle_calls(sockets: int) -> Callable[[Running, float], Result]:
    """Count the system calls of a server in ten seconds, with open but idle WebSockets."""

    def run(running: Running, size: float) -> Result:
        peers = websockets(running.port, ["room/idle"] * sockets)
        time.sleep(SETTLE_SECONDS)
        command = ["strace", "-f", "-ttt", *(f"--attach={pid}" for pid in running.pids())]
        clocks, began = Clocks(running), time.time()
        traced = subprocess.run(
            ["timeout", "-s", "INT", str(ATTACH_SECONDS + IDLE_SECONDS), *command],
            capture_output=True,
            text=True,
        )
        calls = float(calls_after(began + ATTACH_SECONDS, traced.stderr))
        result = clocks.result(calls, [], calls=calls)
        close(peers)
        return result

    return run


def calls_after(moment: float, trace: str) -> int:
    """Return the number of system calls in a trace of `strace -ttt` after time `moment`."""
    begins = re.findall(r"^(?:\[pid +\d+\] )?(\d+\.\d+) \w+\(", trace, re.MULTILINE)
    return sum(float(begin) > moment for begin in begins)


def first_answer(running: Running, size: float) -> Result:
    """Measure the time from the start of the server to its first response, and its CPU time."""
    seconds = running.first_answer_seconds
    return Result(1, running.cpu(), seconds, notes={"first_answer_s": seconds})


def flood(seconds: float) -> Callable[[Running, float], Result]:
    """Send endlessly to one peer that does not read; measure memory, and the echoes of others."""

    def run(running: Running, size: float) -> Result:
        request, reply_bytes = masked(TEXT), len(unmasked(TEXT))
        others = websockets(running.port, [""] * 10)
        ping_pong(others, request, reply_bytes, 5)
        before, latencies, clocks = running.memory(), [], Clocks(running)
        silent = websockets(running.port, ["flood"])
        until = time.perf_counter() + seconds * size
        while time.perf_counter() < until:
            latencies += ping_pong(others, request, reply_bytes, 5)
        grown = (running.memory() - before) / (1 << 20)
        result = clocks.result(len(latencies), latencies, grown_mib=max(grown, 0.1))
        for peer in silent + others:
            peer.socket.close()
        return result

    return run


def memory(path: str, sockets: int) -> Callable[[Running, float], Result]:
    """Measure the server's own memory per idle WebSocket, in KiB."""

    def run(running: Running, size: float) -> Result:
        first = websockets(running.port, [path] * 20)
        before = running.memory()
        clocks = Clocks(running)
        peers = websockets(running.port, [path] * sockets)
        time.sleep(0.5)
        each = (running.memory() - before) / sockets / 1024
        result = clocks.result(sockets, [], kib_per_socket=each)
        close(first + peers)
        return result

    return run
