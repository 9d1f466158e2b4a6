"""Restart when a source file changes, for development."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import gevent


def watch(folder: Path, before: dict[str, int], changed: Callable[[], None]) -> None:
    """Call `changed` whenever a Python file below `folder` is; never returns. To develop with.

    `before`: when they had been changed (`times`) before the first of them was imported.
    """
    while True:
        gevent.sleep(WATCH_SECONDS)
        now = times(folder)
        if now != before:
            before = now
            changed()


def times(folder: Path) -> dict[str, int]:
    """When each source file was changed, without those of hidden folders (environments, caches)."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in files:
            if name.endswith(".py"):
                try:
                    found[f"{place}/{name}"] = (Path(place) / name).stat().st_mtime_ns
                except FileNotFoundError:
                    continue
    return found


WATCH_SECONDS = 1.0
"""Between two looks at the source files, with --reload only."""
