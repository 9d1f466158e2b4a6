"""`manage.py runserver`: Django's own command, on thyme, with static files and WebSockets."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[4]
LIMIT = 60


def test_ctrl_c_ends_the_reloader_and_its_child_without_a_traceback():
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runserver", "0", "--skip-checks"],
        cwd=ROOT,
        env=os.environ | {"DJANGO_DEBUG": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout.readline().startswith("Thyme listens on ")
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            said, lines = process.communicate(timeout=LIMIT)
            assert process.returncode == 0
            assert "KeyboardInterrupt" not in said + lines
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_runserver_serves_pages_and_static_files_on_thyme():
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runserver", "0", "--noreload", "--skip-checks"],
        cwd=ROOT,
        env=os.environ | {"DJANGO_DEBUG": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            url = re.fullmatch(r"Thyme listens on (http://\S+)\n", process.stdout.readline())[1]
            for path in ("/accounts/login/", "/static/admin/css/base.css"):
                with urllib.request.urlopen(url + path, timeout=LIMIT) as answer:
                    assert answer.status == 200
                    assert answer.headers["server"] == "thyme"
            process.send_signal(signal.SIGTERM)
            lines = process.communicate(timeout=LIMIT)[1]
            assert process.returncode == 0
            assert '"GET /accounts/login/ HTTP/1.1" 200' in lines
        finally:
            process.kill()
