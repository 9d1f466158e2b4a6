"""The list of chapters, in their order: the one place that names them.

To add a chapter, add its line here; the map, the book, the rules and `make notebooks` follow. Every
other notebook in this folder, or in folders below it, belongs to whoever wrote it: nothing here
runs or checks it.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Chapter:
    """A chapter's file, and its name on the map of the course."""

    file: str
    name: str


CHAPTERS = (
    Chapter("00_tour.ipynb", "tour"),
    Chapter("01_sockets.ipynb", "sockets"),
    Chapter("02_greenlets.ipynb", "greenlets"),
    Chapter("03_http.ipynb", "HTTP"),
    Chapter("04_websocket.ipynb", "WebSocket"),
    Chapter("05_asgi_esque.ipynb", "ASGI, esque"),
    Chapter("06_asyncio_on_the_hub.ipynb", "asyncio on the hub"),
    Chapter("07_crossbar.ipynb", "crossbar"),
    Chapter("08_gredis_on_redis.ipynb", "gredis on Redis"),
    Chapter("09_relay_and_workers.ipynb", "relay, workers"),
    Chapter("10_psycogreen.ipynb", "psycogreen"),
    Chapter("11_multichat.ipynb", "multichat"),
    Chapter("12_redis_or_sockets.ipynb", "Redis or sockets?"),
    Chapter("13_when_things_die.ipynb", "when things die"),
    Chapter("14_under_load_and_shipping.ipynb", "under load"),
)


def paths(folder: Path = FOLDER) -> list[Path]:
    """Return where the chapters are, in their order."""
    return [folder / chapter.file for chapter in CHAPTERS]


def changed(folder: Path = FOLDER) -> list[Path]:
    """Return the chapters that are missing or not as committed; none where git cannot tell."""
    command = ["git", "diff", "--name-only", "--no-renames", "--relative", "HEAD", "--", "*.ipynb"]
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # noqa: S603
    except OSError:
        return []
    names = answer.stdout.splitlines() if answer.returncode == 0 else []
    return [path for path in paths(folder) if path.name in names]


def how_to_restore(path: Path) -> str:
    """Return what to do about a chapter that somebody has run, written in or removed."""
    place = f"{path.parent.name}/{path.name}"
    return (
        f"{place} is not as committed. To restore it: git restore --staged --worktree {place} "
        "(copy it under another name first if you want to keep what you wrote)."
    )
