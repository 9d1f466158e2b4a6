"""A keeper: the small process that starts one embedded server and stops it after its last user.

Every process that uses the server holds a shared `flock` on the *users* file, which the kernel
releases however the process exits. So the keeper is granted an exclusive `flock` exactly when the
last user is gone. It waits in two blocking calls, for that lock and for the exit of the server, and
makes no other system call.

`services/embedded.py` decides when to start a keeper and runs this file as a script;
`services/engines.py` knows the server. The keeper imports the standard library only. It reads one
job (`Job`) as JSON from standard input and answers with one line on standard output: `ready`, or
the problem.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

READY = b"eady to accept connections"
"""Both servers write a line with these letters to their log once they accept connections."""

START_SECONDS = 60.0
"""For the server to start: recovery after a power cut takes a few seconds on a slow disk."""

POLL_SECONDS = 0.01
"""Between two looks at the log, only while the server starts."""

STOP_SECONDS = 20
"""For the server to exit after `stop_signal`, before `force_signal` is sent; pg_ctl waits 60."""


class Job(TypedDict):
    """The server to run, and its lock files. Paths are absolute."""

    command: list[str]  # the server, in the foreground
    user: int | None  # user id to run it as; None: our own
    group: int | None
    log: str  # file for its output, truncated first
    stop_signal: int
    force_signal: int  # sent STOP_SECONDS after stop_signal
    users: str  # lock: shared by users, exclusive by the keeper that stops the server
    keeper: str  # lock: held by the keeper until it exits; the file has pid, URL and socket
    start: int  # descriptor of the start lock, closed when the server is ready
    sockets: str  # directory that is removed at the end
    socket: str  # path by which others check that the server accepts connections
    url: str


def main(job: Job) -> None:
    """Start the server, report, and stay until it exits."""
    # A second fork: the keeper becomes a child of init, so no user has to reap it.
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    lock = os.open(job["keeper"], os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.ftruncate(lock, 0)  # a keeper that was killed has left its text
    server = start(job)
    stop_on_signals(server, job)
    problem = wait_until_ready(server, Path(job["log"]))
    if problem:
        server.kill()
        print(problem)
    else:
        known = {"pid": os.getpid(), "url": job["url"], "socket": job["socket"]}
        os.pwrite(lock, json.dumps(known).encode(), 0)
        threading.Thread(target=stop_after_last_user, args=(job["users"],), daemon=True).start()
        print("ready")
    detach(job["start"])
    server.wait()
    os.ftruncate(lock, 0)
    shutil.rmtree(job["sockets"], ignore_errors=True)


def start(job: Job) -> subprocess.Popen[bytes]:
    """Start the server. It inherits no descriptor, so it holds no lock."""
    with open(job["log"], "wb") as log:
        return subprocess.Popen(  # noqa: S603 - the command comes from engines.py
            job["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            user=job["user"],
            group=job["group"],
            extra_groups=None if job["user"] is None else [],
            preexec_fn=request_signal_on_parent_exit(job["stop_signal"]),  # no threads run yet
        )


def request_signal_on_parent_exit(number: int) -> Callable[[], None] | None:
    """Return a function for the server process that requests signal `number` if its keeper dies.

    Linux only. Elsewhere a server outlives a killed keeper until `services/embedded.py` finds and
    stops it.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    pr_set_pdeathsig = 1  # <linux/prctl.h>
    return lambda: prctl(pr_set_pdeathsig, number)


def stop_on_signals(server: subprocess.Popen[bytes], job: Job) -> None:
    """Stop the server on SIGTERM and SIGINT, by force after STOP_SECONDS."""

    def stop(number: int, frame: object) -> None:
        server.send_signal(job["stop_signal"])
        signal.alarm(STOP_SECONDS)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGALRM, lambda number, frame: server.send_signal(job["force_signal"]))


def wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> str:
    """Block until the server accepts connections; return "", or the problem if it does not."""
    deadline = time.monotonic() + START_SECONDS
    while READY not in log.read_bytes():
        if server.poll() is not None:
            return f"it exited with code {server.returncode}"
        if time.monotonic() > deadline:
            return f"it was not ready after {START_SECONDS:.0f} s"
        time.sleep(POLL_SECONDS)
    return ""


def stop_after_last_user(path: str) -> None:
    """Block until no process holds the users lock, then stop this process.

    It keeps the lock until it has exited, so that a new user waits for that.
    """
    users = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_EX)
    os.kill(os.getpid(), signal.SIGTERM)


def detach(start_lock: int) -> None:
    """Close the pipe to the process that started this one, and the start lock shared with it."""
    with contextlib.suppress(BrokenPipeError):  # that process may have been killed
        sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    os.close(start_lock)


if __name__ == "__main__":
    main(json.load(sys.stdin))
