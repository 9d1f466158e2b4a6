"""Python programs as child processes: what they print to a pipe, what they log to a file.

The finished, patched system never runs in a kernel, only in children. Inherited standard error
would end up, or not, in the output of a cell; so it goes to a file, which is told when it matters.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from course.scratch import ROOT

SECONDS = 60.0  # for a program to say what is waited for, or to end


class Program:
    """`python ARGUMENTS` in the root of the checkout (or `cwd`), with this environment.

    `said`: the lines it has printed, as far as `line()` has read them. `log`: a file with its
    standard error. `end()` asks it to end (SIGTERM), and gives its exit code.
    """

    def __init__(
        self, *arguments: str, env: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        number, name = tempfile.mkstemp(prefix="thyme-course-", suffix=".log")
        self.log = Path(name)
        self.said: list[str] = []
        with os.fdopen(number, "w") as errors:
            self.process = subprocess.Popen(  # noqa: S603 - a chapter says what is run
                [sys.executable, *arguments],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, pattern: str, seconds: float = SECONDS) -> re.Match[str]:
        """Read what it prints until a line has `pattern` in it: the match.

        RuntimeError, with its log, when it ends before, or does not say it in time (it is killed).
        """
        alarm = threading.Timer(seconds, self.process.kill)
        alarm.start()
        try:
            for line in self.process.stdout:
                self.said.append(line.rstrip("\n"))
                if found := re.search(pattern, line):
                    return found
        finally:
            alarm.cancel()
            alarm.join()
        raise RuntimeError(f"it never said {pattern!r}\n{self.said}\n{self.log.read_text()}")

    def port(self) -> int:
        """Where `python -m thyme … --port 0` listens: it says so in its first line."""
        return int(self.line(r"http://\S+:(\d+)")[1])

    def end(self, seconds: float = SECONDS) -> int:
        """Ask it to end, wait, and remove its log. Its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.log.unlink(missing_ok=True)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
