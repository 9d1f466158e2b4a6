"""While nothing happens, nothing is done: strace sees no system call of any of our processes.

What strace shows of a quiet process, and how it is read:

* Attaching interrupts the call that a thread is blocked in. The kernel lets `epoll_wait` return
  (EINTR), libev looks whether it has been forked and calls it again: a `getpid` and an
  `epoll_wait`, within a millisecond, or when a busy machine comes to it. So judged is what comes
  after a second in which none of them has made a call. It hides nothing that repeats: whatever
  wakes a process later, by time-out or by event, is followed by another call (another wait at
  least), and that is seen.
* A call is written with the time at which it began. The one wait that lasts all the time began
  before, and `<detached ...>` at its end is strace's own word.
* At the end something is done on purpose, and strace must have seen that.

What is waited for before that, from outside: gevent's threads for host look-ups, which end 10 s
after their last work, connections that are still closing, and frames that are under way.
"""

import contextlib
import re
import subprocess
import time
from urllib.parse import urlsplit

import psutil
import pytest

from tests.conftest import IN_CI, needs
from tests.system.children import DEADLINE
from tests.system.people import said

SOCKETS = 20  # open on each server
RESTING = 20  # looks at intervals of 0.05 s at which there is nothing new
WATCHED = 10.0  # s
ATTACHED = re.compile(rb"Process \d+ attached")
CALL = re.compile(r"(?:\d+ +)?(\d+\.\d+) (.*)")  # [thread] seconds since 1970, the call


class Trace:
    """strace beside one process and all its threads, from when it is attached until `end`."""

    def __init__(self, pid, file):
        command = [needs("strace"), "-f", "-ttt", "-p", str(pid), "-o", str(file)]
        self.file = file
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        first = self.process.stderr.readline()
        if not ATTACHED.search(first):
            self.end()
            if b"not permitted" in first and not IN_CI:  # Yama: only root, or a parent
                pytest.skip("strace may not look at processes here: kernel.yama.ptrace_scope")
            pytest.fail(f"strace: {first.decode()}")

    @property
    def size(self):
        """Bytes that strace has written."""
        return self.file.stat().st_size if self.file.exists() else 0

    def end(self):
        """Detach; the watched process goes on."""
        self.process.terminate()
        self.process.wait(DEADLINE)
        self.process.stderr.close()

    def calls(self, start, end):
        """The calls made from `start` to `end`, seconds since 1970."""
        found = filter(None, map(CALL.match, self.file.read_text().splitlines()))
        return [line[2] for line in found if start <= float(line[1]) < end]


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def at_rest_since(traces):
    """Now, when nothing has been seen for a second."""
    looks = [[trace.size for trace in traces]]

    def resting():
        looks.append([trace.size for trace in traces])
        return len(looks) > RESTING and looks[-1 - RESTING :].count(looks[-1]) == RESTING + 1

    wait_until(resting)
    return time.time()


def threads(child):
    return psutil.Process(child.pid).num_threads()


def browsers_of(child, url):
    """Connections of browsers that a server has; lifelines come to another port."""
    port = urlsplit(url).port
    connections = psutil.Process(child.pid).net_connections("tcp")
    listening = psutil.CONN_LISTEN
    return sum(each.laddr.port == port and each.status != listening for each in connections)


@pytest.fixture
def at_rest(system, enter, new_room):
    """The system with 20 pages on each server, each in a room with some others, and at rest."""
    rooms = [new_room(f"Corner {number}") for number in range(5)]
    pages = []
    for url in system.urls.values():
        for number in range(SOCKETS):
            page = enter(url, "alice")
            assert "join" in page.ask("join", rooms[number % len(rooms)])
            pages.append(page)
    for number, page in enumerate(pages):
        for _later in pages[number + len(rooms) :: len(rooms)]:
            assert page.hear()["msg_type"] == 4
    servers = [*system.servers.values(), system.whole]
    ours = [*servers, *system.workers.values()]
    wait_until(lambda: all(threads(child) == 1 for child in ours))
    urls = system.urls
    wait_until(lambda: all(browsers_of(each, urls[each.name]) == SOCKETS for each in servers))
    return rooms, pages, ours


def test_idle_servers_and_workers_with_20_websockets_make_no_system_call(at_rest, tmp_path):
    rooms, pages, ours = at_rest
    with contextlib.ExitStack() as stack:
        traces = {}
        for child in ours:
            trace = traces[child.name] = Trace(child.pid, tmp_path / child.name)
            stack.callback(trace.end)
        start = at_rest_since(traces.values())
        for trace in traces.values():
            with pytest.raises(subprocess.TimeoutExpired):  # it must not end by itself
                trace.process.wait(max(0, start + WATCHED - time.time()))
        end = time.time()
        pages[0].say("send", rooms[0], message="Anybody here?")
        for page in pages[:: len(rooms)]:
            assert page.hear() == said(rooms[0], "alice", "Anybody here?")
    seen = {name: trace.calls(start, end) for name, trace in traces.items()}
    assert seen == {name: [] for name in traces}
    assert all(trace.calls(end, time.time()) for trace in traces.values())
