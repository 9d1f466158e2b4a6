"""Run a piece of Python in a child process that gevent has patched from its first line on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

PATCH = "from gevent import monkey; monkey.patch_all()\n"
INSTALL = "import thyme.loop; thyme.loop.install()\n"


def run_patched(source: str, *, install: bool = True, **environment: str) -> str:
    """What `source` prints; the child's error output is part of the failure."""
    code = PATCH + (INSTALL if install else "") + textwrap.dedent(source)
    child = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()
