"""How to tell that a process is at rest: it sleeps until something happens, and no timer is set.

A process that has just started may still have a timer or two to come, and one that has been woken
may still wait for its turn on a busy machine. Neither shows in what it has done so far. Linux shows
what each thread waits in: `/proc/PID/task/TID/syscall` has the system call and its arguments.
"""

from __future__ import annotations

from pathlib import Path

EPOLL_WAIT = {"232", "281", "22"}  # epoll_wait and epoll_pwait on x86-64, epoll_pwait on arm64
FOR_EVER = 86_400_000  # milliseconds: libev waits for days when it has no timer, others for ever


def at_rest(process: int, thread: int | None = None) -> bool:
    """Return whether a process, or one thread of it, waits for events and nothing else.

    Where the kernel does not say (macOS, some containers) the answer is True: compare how often
    the process has run, too.
    """
    tasks = Path(f"/proc/{process}/task")
    try:
        threads = [tasks / str(thread)] if thread else list(tasks.iterdir())
        return all(_waits_for_events((each / "syscall").read_text()) for each in threads)
    except OSError:
        return True


def _waits_for_events(state: str) -> bool:
    """`state` is "running", or the number of the system call and its arguments."""
    call, *arguments = state.split()
    if call not in EPOLL_WAIT:
        return False
    milliseconds = int(arguments[3], 16)  # -1, as unsigned, is the longest
    return milliseconds & 0xFFFFFFFF > FOR_EVER
