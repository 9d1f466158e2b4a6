"""Child processes that are kept alive: started, watched, started again, and ended in order.

A `Child` is supervised by one greenlet, which waits for the child's output and its end and for
nothing else: no polling. What the children are is `run.py`'s business.

Three rules let no child outlive us: it runs in a session of its own, so Ctrl-C reaches only us
and we decide the order; its standard input is a pipe that ends when we die, however that
happens, and it is started with an option that makes it end then; and `stop_in_turn` kills what
has not ended in time.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gevent
import gevent.event
from gevent import subprocess

STOP_GRACE = 4.0  # seconds for a child to end in order before it is killed
STEADY = 10.0  # seconds: a child that lived longer is started again at once
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a short-lived child is started again
LINES_SHOWN = 8  # of a failed command's output


class ChildFailed(Exception):
    """A child process ended before it had done its work; the message is for a person."""


class Child:
    """One supervised process.

    name       begins the sentences about it, "Worker 1"
    command    program and arguments
    first      how the line on its standard output begins that says it is ready
    directory  where it runs
    say        takes what a person should read, line by line
    grace      seconds for it to end in order before it is killed
    inherits   descriptors that it gets, under the same numbers
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        first: str,
        directory: Path,
        say: Callable[[str], None],
        *,
        grace: float = STOP_GRACE,
        inherits: Sequence[int] = (),
    ) -> None:
        self._grace = grace
        self._inherits = inherits
        self.name = name
        self.command = command
        self._first = first
        self._directory = directory
        self._say = say
        self._ready: gevent.event.AsyncResult[str] = gevent.event.AsyncResult()
        self._process: subprocess.Popen[str] | None = None
        self._greenlet = gevent.Greenlet(self._supervise)

    def start(self) -> None:
        self._greenlet.start()

    def ready(self) -> str:
        """Wait for the child's line that says it is ready; that line.

        Raises ChildFailed when the child ended instead.
        """
        problem, line = self._ready.get()
        if problem:
            raise ChildFailed(problem)
        return str(line)

    def stop(self) -> None:
        """Ask it to end, wait, kill it if it took longer than its grace. It stays ended."""
        process, self._process = self._process, None
        self._greenlet.kill()
        if not self._ready.ready():
            self._ready.set((f"{self.name} was ended before it was ready.", ""))
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self._grace)
        except subprocess.TimeoutExpired:
            process.kill()
        self._finished(process)

    def _supervise(self) -> None:
        pause = 0.0
        while True:
            began = time.monotonic()
            code = self._run()
            if not self._ready.ready():
                self._ready.set((f"{self.name} could not start: {how_it_ended(code)}.", ""))
                return
            pause = next_pause(pause, time.monotonic() - began)
            when = f"in {pause:g} s" if pause else "now"
            self._say(f"{self.name} {how_it_ended(code)}; starting it again {when}.")
            gevent.sleep(pause)

    def _run(self) -> int:
        """Run it once, passing its lines on; its exit code."""
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._directory,
            universal_newlines=True,
            start_new_session=True,
            pass_fds=self._inherits,
        )
        self._process = process
        for line in process.stdout:
            self._heard(line.rstrip())
        self._process = None
        return self._finished(process)

    @staticmethod
    def _finished(process: subprocess.Popen[str]) -> int:
        code: int = process.wait()
        process.stdin.close()
        process.stdout.close()
        return code

    def _heard(self, line: str) -> None:
        if self._ready.ready() or not line.startswith(self._first):
            self._say(line)
        else:
            self._ready.set(("", line))


def next_pause(last: float, lived: float) -> float:
    """Seconds to wait before a child that `lived` so many seconds is started again."""
    if lived > STEADY:
        return 0.0
    return min(2 * last, LONGEST_PAUSE) or FIRST_PAUSE


def how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def stop_in_turn(groups: Sequence[Sequence[Child]]) -> None:
    """End each group of children together, one group after the other."""
    for group in groups:
        gevent.joinall([gevent.spawn(child.stop) for child in group])


def finish(command: list[str], directory: Path) -> str:
    """Run `command` to its end; its standard output. It dies with a greenlet that is killed.

    Raises ChildFailed with the end of its output.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=directory,
        universal_newlines=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        last = "\n".join((output + errors).splitlines()[-LINES_SHOWN:])
        shown = " ".join(command[1:])
        raise ChildFailed(f"{last}\n`python {shown}` {how_it_ended(process.returncode)}.")
    return str(output)
