"""The TCP hub, for tests: a process that can be killed and started again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Hub:
    """`python -m gredis` on a free port, in a process of its own."""

    def __init__(self) -> None:
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, empty, on the port it had before."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gredis", "--port", str(self.port)],
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self.process.stdout.readline()
        self.port = int(said.rpartition(":")[2])

    def kill(self) -> None:
        """End it as a crash would; what it held is lost."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A running hub, empty, of one's own."""
    hub = Hub()
    hub.start()
    try:
        yield hub
    finally:
        hub.kill()
