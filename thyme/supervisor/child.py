"""Child processes that are kept running: started, supervised, restarted, and stopped in order.

Each `Child` is supervised by one greenlet, which waits for the child's output and for its exit:
there is no polling. The caller decides which programs run (`run.py`, `cli/processes.py`).

Three rules ensure that no child outlives its parent:

1. A child runs in a session of its own, so Ctrl-C reaches the parent only, which then stops its
   children in the right order.
2. A child's standard input is a pipe, which the kernel closes however the parent exits; the child
   is started with an option that makes it stop then.
3. `stop_in_order` kills children that do not exit in time.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gevent
import gevent.event
from gevent import subprocess

GRACE_SECONDS = 4.0
"""For a child to exit after SIGTERM, before it is killed."""

STABLE_SECONDS = 10.0
"""A child that ran longer than this is restarted without delay."""

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds before a short-lived child is restarted; doubled each time, up to the second."""

LINES_SHOWN = 8
"""Of a failed command's output."""


class ChildFailed(Exception):
    """A child exited before it was ready, or a command failed; the message is for the user."""


class Child:
    """One supervised process.

    name           identifies it in messages: "Worker 1"
    command        program and arguments
    ready_prefix   start of the line on its standard output that reports that it is ready
    directory      its working directory
    log            is called with each line of its output, and with messages for the user
    grace_seconds  for it to exit after SIGTERM, before it is killed
    pass_fds       descriptors that it inherits, under the same numbers
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        ready_prefix: str,
        directory: Path,
        log: Callable[[str], None],
        *,
        grace_seconds: float = GRACE_SECONDS,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.command = command
        self._ready_prefix = ready_prefix
        self._directory = directory
        self._log = log
        self._grace_seconds = grace_seconds
        self._pass_fds = pass_fds
        self._ready: gevent.event.AsyncResult[str] = gevent.event.AsyncResult()
        self._process: subprocess.Popen[str] | None = None
        self._greenlet = gevent.Greenlet(self._supervise)

    def start(self) -> None:
        """Start the process and its supervision; return immediately."""
        self._greenlet.start()

    def ready(self) -> str:
        """Block until the child reports that it is ready; return that line.

        Raises ChildFailed if the child exits first.
        """
        problem, line = self._ready.get()
        if problem:
            raise ChildFailed(problem)
        return str(line)

    def stop(self) -> None:
        """Terminate the child, or kill it after its grace period; do not restart it."""
        process, self._process = self._process, None
        self._greenlet.kill()
        if not self._ready.ready():
            self._ready.set((f"{self.name} was stopped before it was ready.", ""))
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self._grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        self._reap(process)

    def _supervise(self) -> None:
        delay = 0.0
        while True:
            started = time.monotonic()
            code = self._run()
            if not self._ready.ready():
                self._ready.set((f"{self.name} could not start: {describe_exit(code)}.", ""))
                return
            delay = next_delay(delay, uptime=time.monotonic() - started)
            when = f"in {delay:g} s" if delay else "now"
            self._log(f"{self.name} {describe_exit(code)}; restarting it {when}.")
            gevent.sleep(delay)

    def _run(self) -> int:
        """Run the process once and pass its output on; return its exit code."""
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._directory,
            universal_newlines=True,
            start_new_session=True,
            pass_fds=self._pass_fds,
        )
        self._process = process
        for line in process.stdout:
            self._handle_line(line.rstrip())
        self._process = None
        return self._reap(process)

    @staticmethod
    def _reap(process: subprocess.Popen[str]) -> int:
        """Wait for the exit of `process` and close its pipes; return its exit code."""
        code: int = process.wait()
        process.stdin.close()
        process.stdout.close()
        return code

    def _handle_line(self, line: str) -> None:
        if self._ready.ready() or not line.startswith(self._ready_prefix):
            self._log(line)
        else:
            self._ready.set(("", line))


def next_delay(last: float, *, uptime: float) -> float:
    """Return the delay before a child is restarted that ran for `uptime`; both in seconds."""
    if uptime > STABLE_SECONDS:
        return 0.0
    return min(2 * last, LONGEST_DELAY) or FIRST_DELAY


def describe_exit(code: int) -> str:
    """Return a predicate such as "exited with code 1" or "was terminated by SIGKILL"."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was terminated by {signal.Signals(-code).name}"
    except ValueError:
        return f"was terminated by signal {-code}"


def stop_in_order(groups: Sequence[Sequence[Child]]) -> None:
    """Stop the groups of children one after another, and the children of a group together."""
    for group in groups:
        gevent.joinall([gevent.spawn(child.stop) for child in group])


def run_command(command: list[str], directory: Path) -> str:
    """Run `command` until it exits; return its standard output.

    The command is killed if the calling greenlet is. Raises ChildFailed with the end of its output.
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
        raise ChildFailed(f"{last}\n`python {shown}` {describe_exit(process.returncode)}.")
    return str(output)
