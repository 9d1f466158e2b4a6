"""A chat of one's own: started from nothing in a temporary place, and gone without a trace.

So a chapter never touches the rooms and accounts of the person who reads it. The place is named
like the process that made it; what a kernel left that was killed half-way, the next one removes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

import psutil

from thyme.services.engines import THROWAWAY, Account, data_home

ROOT = Path(__file__).resolve().parents[2]  # the checkout
CONFIGURED = ("REDIS_URL", "DATABASE_URL", "DJANGO_ALLOWED_HOSTS", "DJANGO_DEBUG", "DJANGO_HTTPS")
NAME = "thyme-course-"


def new_state() -> Path:
    """A new state directory: embedded Redis and Postgres will keep everything there."""
    for left in Path(tempfile.gettempdir()).glob(f"{NAME}*"):
        owner = re.match(rf"{NAME}(\d+)-", left.name)
        ours = left.stat().st_uid == os.geteuid()
        if owner and ours and not psutil.pid_exists(int(owner[1])):
            remove(left.resolve())
    state = Path(tempfile.mkdtemp(prefix=f"{NAME}{os.getpid()}-")).resolve()
    (state / THROWAWAY).touch()
    return state


def environment(state: Path, **settings: str) -> dict[str, str]:
    """The environment for a chat that lives in `state`, whatever the reader's own says."""
    inherited = {name: value for name, value in os.environ.items() if name not in CONFIGURED}
    fresh = {"THYME_STATE": str(state), "DJANGO_SECRET_KEY": secrets.token_hex(32)}
    return inherited | fresh | {"DJANGO_SETTINGS_MODULE": "multichat.settings"} | settings


def remove(state: Path) -> None:
    """Remove the state, and its database, which is elsewhere if the reader is root."""
    home = data_home(state, Account.unprivileged())
    for folder in {home, state}:
        shutil.rmtree(folder, ignore_errors=True)
