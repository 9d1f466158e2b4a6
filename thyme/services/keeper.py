"""A keeper: the small process that starts one embedded server and ends it after its last user.

It decides when a server ends: when nobody holds the *users* lock any more. Every process that
uses the server holds a shared `flock` on that file, which the kernel drops however the process
dies, so an exclusive `flock` is granted exactly when the last user is gone. The keeper waits
in two blocking calls, for that lock and for the server to end, and makes no system call else.

It leaves to `services/embedded.py` who starts a keeper and when, and to `services/engines.py` what
the server is. It is run as a script by `services/embedded.py`, imports the standard library only,
and knows one order (`Order`), given as JSON on standard input. It answers with one line on standard
output: `ready`, or what went wrong.
"""

from __future__ import annotations

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

# Both servers write a line with these letters to their log once they take connections.
READY = b"eady to accept connections"

START_LIMIT = 60.0  # seconds; recovery after a power cut takes a few on a slow disk
LOOK_AGAIN = 0.01  # seconds between two looks into the log, only while the server starts
STOP_GRACE = 20  # seconds for an orderly end before `hurry` is sent; pg_ctl waits for 60


class Order(TypedDict):
    """What one keeper does. Paths are absolute."""

    command: list[str]  # the server, in the foreground
    user: int | None  # run it as this user id; None: as ourselves
    group: int | None
    log: str  # file for its output, begun anew
    stop: int  # signal number that asks it to end
    hurry: int  # signal number when it did not
    users: str  # lock: shared by users, exclusive by the keeper that stops
    keeper: str  # lock: held by the keeper for its lifetime; in it: pid, URL, socket
    start: int  # file descriptor of the start lock, given up when the server is ready
    sockets: str  # directory removed at the end
    socket: str  # for those who want to see whether the server answers
    url: str


def main(order: Order) -> None:
    """Start the server, report, stay until it ends."""
    # A second fork: the keeper becomes a child of init, so no user has to collect it.
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    life = os.open(order["keeper"], os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(life, fcntl.LOCK_EX)
    os.ftruncate(life, 0)  # a killed keeper could not
    server = start(order)
    stop_on_signals(server, order)
    problem = wait_until_ready(server, Path(order["log"]))
    if problem:
        server.kill()
        print(problem)
    else:
        known = {"pid": os.getpid(), "url": order["url"], "socket": order["socket"]}
        os.pwrite(life, json.dumps(known).encode(), 0)
        threading.Thread(target=end_after_last_user, args=(order["users"],), daemon=True).start()
        print("ready")
    say_no_more(order["start"])
    server.wait()
    os.ftruncate(life, 0)
    shutil.rmtree(order["sockets"], ignore_errors=True)


def start(order: Order) -> subprocess.Popen[bytes]:
    """The server process. It gets no descriptor of ours, so it keeps no lock."""
    with open(order["log"], "wb") as log:
        return subprocess.Popen(  # noqa: S603 - the command comes from engines.py
            order["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            user=order["user"],
            group=order["group"],
            extra_groups=None if order["user"] is None else [],
            preexec_fn=end_with_parent(order["stop"]),  # no threads run yet
        )


def end_with_parent(number: int) -> Callable[[], None] | None:
    """On Linux, what makes the server get signal `number` when its keeper is killed.

    Elsewhere a server outlives a killed keeper until `services/embedded.py` finds and stops it.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    pr_set_pdeathsig = 1  # <linux/prctl.h>
    return lambda: prctl(pr_set_pdeathsig, number)


def stop_on_signals(server: subprocess.Popen[bytes], order: Order) -> None:
    """SIGTERM and SIGINT end the server in order; an alarm after STOP_GRACE hurries it."""

    def stop(number: int, frame: object) -> None:
        server.send_signal(order["stop"])
        signal.alarm(STOP_GRACE)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGALRM, lambda number, frame: server.send_signal(order["hurry"]))


def wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> str:
    """Empty when the server takes connections, or else what happened instead."""
    deadline = time.monotonic() + START_LIMIT
    while READY not in log.read_bytes():
        if server.poll() is not None:
            return f"it ended with code {server.returncode}"
        if time.monotonic() > deadline:
            return f"it was not ready after {START_LIMIT:.0f} s"
        time.sleep(LOOK_AGAIN)
    return ""


def end_after_last_user(path: str) -> None:
    """Block until no process holds the users lock, then ask ourselves to stop.

    The lock stays ours until we have exited, so a user who comes now waits for that.
    """
    users = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_EX)
    os.kill(os.getpid(), signal.SIGTERM)


def say_no_more(start_lock: int) -> None:
    """Close what ties us to whoever started us: its pipe, and the start lock we share."""
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
    os.close(start_lock)


if __name__ == "__main__":
    main(json.load(sys.stdin))
