"""`manage.py runworker2`: its options, and its start and end on both kinds of loop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from thyme.management.commands.runworker2 import queue_option

ROOT = Path(__file__).parents[4]
LIMIT = 60  # seconds for a process to start or end; much more than it takes


def worker(url: str, *options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "runworker2", *options],
        cwd=ROOT,
        env=os.environ | {"REDIS_URL": url} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("text", "expected"), [("http", ("http", None)), ("websocket=20", ("websocket", 20))]
)
def test_a_queue_has_a_name_and_perhaps_a_limit(
    text: str, expected: tuple[str, int | None]
) -> None:
    assert queue_option(text) == expected


@pytest.mark.parametrize("text", ["", "=5", "http=", "http=0", "http=many", "http=-1"])
def test_other_queues_are_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="expected NAME or NAME=CONNECTIONS"):
        queue_option(text)


@pytest.mark.parametrize("loop", ["gevent", "asyncio"])
@pytest.mark.parametrize("how", ["signal", "eof"])
def test_a_worker_reports_that_it_is_ready_and_stops_when_asked_to(
    redis_server: object, loop: str, how: str
) -> None:
    url = redis_server.url  # type: ignore[attr-defined]
    with worker(url, "--loop", loop, "--stop-on-eof") as process:
        try:
            assert process.stdout is not None
            assert re.fullmatch(r"Worker \S+ takes connections\n", process.stdout.readline())
            if how == "signal":
                process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=LIMIT)  # closes its standard input
            assert (process.returncode, out, err) == (0, "", "")
        finally:
            process.kill()


def test_another_channel_layer_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "other_settings.py").write_text(
        "from multichat.settings import *\n"
        "CHANNEL_LAYERS = {'default': {'BACKEND': 'channels.layers.InMemoryChannelLayer'}}\n"
    )
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    with worker(
        "unix:///nowhere", DJANGO_SETTINGS_MODULE="other_settings", PYTHONPATH=path
    ) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (1, "")
    assert "got a default channel layer of type InMemoryChannelLayer" in err
    assert "Traceback" not in err
