"""`python -m thyme`: a process that is patched before anything else is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import runpy, sys
sys.argv = ["thyme", "--help"]
try:
    runpy.run_module("thyme", run_name="__main__")
except SystemExit as ended:
    assert ended.code == 0
from gevent import monkey
from psycopg2.extensions import get_wait_callback
assert monkey.is_module_patched("socket") and monkey.is_module_patched("threading")
assert get_wait_callback() is not None
"""


def test_the_program_patches_the_standard_library_and_psycopg2() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage: python -m thyme")


def test_importing_the_command_line_patches_nothing() -> None:
    program = (
        "import thyme.cli.main; from gevent import monkey; "
        "assert not monkey.is_module_patched('socket')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
