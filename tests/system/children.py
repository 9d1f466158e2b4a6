"""Child processes of the system tests: started, listened to with a deadline, always ended.

A child's standard output is read line by line (that is how it says that it is ready), its
standard error goes to a temporary file, which `conftest.py` shows when a test fails.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE = 90.0  # s for anything that takes a second or two on a quiet machine
CONFIGURED = ("REDIS_URL", "DATABASE_URL", "DJANGO_ALLOWED_HOSTS", "DJANGO_DEBUG", "THYME_STATE")
SHOWN = 60  # lines of standard error in a report

alive: list[Child] = []


class Child:
    """One process of the checkout's Python, run from the checkout as the README says.

    `descriptors`: open files that it inherits. `ends_with`: its exit codes that are in order.
    """

    def __init__(
        self, name: str, *arguments: str, descriptors: tuple[int, ...] = (), **environment: str
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if k not in CONFIGURED}
        self.name = name
        self.killed = False
        self.ends_with = {0}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,  # ends with us, however we end: see --stop-on-eof
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=inherited | environment,
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C is for pytest, which ends its children itself
        )
        self.pid = self._process.pid
        alive.append(self)

    def line(self, start: str) -> str:
        """The first line of standard output that begins with `start`; what follows it there."""
        deadline = time.monotonic() + DEADLINE
        for line in self._lines(deadline):
            if line.startswith(start):
                return line.removeprefix(start)
        code = self._process.poll()
        state = "still runs" if code is None else f"ended with {code}"
        raise AssertionError(f"{self.name} said no line {start!r} and {state}:\n{self.said()}")

    def _lines(self, deadline: float) -> Iterator[str]:
        """Complete lines, until the end of the output or the deadline."""
        output = self._process.stdout
        assert output is not None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while True:
                while b"\n" in self._unread:
                    line, _, self._unread = self._unread.partition(b"\n")
                    yield line.decode()
                if not selector.select(deadline - time.monotonic()):
                    return
                more = os.read(output.fileno(), 65536)
                if not more:
                    return
                self._unread += more

    def output(self) -> str:
        """All it says until it ends, which must be with exit code 0."""
        text = "\n".join(self._lines(time.monotonic() + DEADLINE))
        self.end(None)
        return text

    def said(self) -> str:
        """The last lines of its standard error."""
        # The child writes at an offset that we share with it: read without moving that.
        size = os.fstat(self._errors.fileno()).st_size
        text = os.pread(self._errors.fileno(), size, 0).decode(errors="replace")
        return "\n".join(text.splitlines()[-SHOWN:])

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it as a crash would."""
        self.killed = True
        self._process.kill()
        self._process.wait()

    def end(self, number: int | None = signal.SIGTERM) -> None:
        """Ask it to end, and see it end in order: by `ends_with`, no error logged."""
        if self not in alive:
            return
        if number is not None and self._process.poll() is None:
            self._process.send_signal(number)
        try:
            code = self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        said = self.said()
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()
        alive.remove(self)
        troubled = code not in self.ends_with or "Traceback" in said or "ERROR" in said
        if troubled and not self.killed:
            raise AssertionError(f"{self.name} ended with {code} and said:\n{said}")

    def exit(self) -> tuple[int, str]:
        """Wait until it ends by itself: its exit code and its standard error."""
        code, said = self._process.wait(DEADLINE), self.said()
        self.killed = True  # its end has been looked at
        return code, said


Start = Callable[..., Child]


@contextlib.contextmanager
def family() -> Iterator[Start]:
    """`Child`, for children that are ended with the block, the last first, whatever happens."""
    children: list[Child] = []

    def start(name: str, *arguments: str, **options: Any) -> Child:
        children.append(Child(name, *arguments, **options))
        return children[-1]

    try:
        yield start
    finally:
        with contextlib.ExitStack() as endings:  # each is ended, also when another one raises
            for child in children:
                endings.callback(child.end)
