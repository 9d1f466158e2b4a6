"""Count the calls behind one page and one line of chat, in the real product.

    python -m bench.walks                             all walks, as a table
    python -m bench.walks --show line                 the calls of one walk, in order
    python -m bench.walks --show page --servers 0     the same in one process
    python -m bench.walks --write                     put the table into docs/architecture.md

It starts Valkey, a database, servers and workers as the system tests do, lets two people meet in a
room, and counts in each process while one page is loaded, or while one line goes from one browser
to the other: calls of our functions (`sys.setprofile`; a resumed generator or coroutine counts as
a call), the files that they are in, greenlets in which they run, and changes of greenlet. Redis
counts its own commands. Each walk is repeated; the median run is shown.

It needs the packages of `make test`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import runpy
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
OURS = tuple(f"{ROOT / package}{os.sep}" for package in ("thyme", "gredis", "chat", "multichat"))
DOCUMENT = ROOT / "docs" / "architecture.md"
PLACE = re.compile(r"(<!-- walks[^>]*-->\n).*?(<!-- end of walks -->)", re.DOTALL)
WARM_UP, REPEATS = 5, 7
LAST = "that was all"
QUIET_SECONDS = 0.3
"""After a walk: for replies and acknowledgements that nobody waits for."""


# --- in the process that is watched -------------------------------------------------------


class Tracer:
    """Counts from SIGUSR1 to SIGUSR2, then writes one line of JSON to standard output."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []

    def start(self, number: int, frame: object) -> None:
        from greenlet import settrace

        self.calls = []
        settrace(self._switched)
        sys.setprofile(self._profile)

    def stop(self, number: int, frame: object) -> None:
        from greenlet import settrace

        sys.setprofile(None)
        settrace(None)
        sys.stdout.write(f"walk {json.dumps(self.calls)}\n")
        sys.stdout.flush()

    def _switched(self, event: str, greenlets: tuple[object, object]) -> None:
        sys.setprofile(self._profile)  # CPython keeps its switch for profiling per greenlet

    def _profile(self, frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            from greenlet import getcurrent

            code = frame.f_code
            place = os.path.relpath(code.co_filename, ROOT)
            self.calls.append((place, code.co_qualname, id(getcurrent())))


def run_watched(program: list[str]) -> None:
    """Run `-m MODULE …` or `SCRIPT …` in this process, with a tracer."""
    tracer = Tracer()
    signal.signal(signal.SIGUSR1, tracer.start)
    signal.signal(signal.SIGUSR2, tracer.stop)
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        runpy.run_path(sys.argv[0], run_name="__main__")


# --- the system that is walked through ----------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """One run: calls of all processes, and what Redis counted."""

    processes: dict[str, list[tuple[str, str, int]]]
    scripts: Counter[str]
    pushed: int

    @property
    def calls(self) -> int:
        return sum(map(len, self.processes.values()))

    @property
    def files(self) -> int:
        return len({place for calls in self.processes.values() for place, _, _ in calls})

    @property
    def greenlets(self) -> int:
        """Greenlets that ran any of these calls."""
        return sum(len({each[2] for each in calls}) for calls in self.processes.values())

    @property
    def switches(self) -> int:
        """Changes from one greenlet that runs our code to another one."""
        return sum(
            before[2] != after[2]
            for calls in self.processes.values()
            for before, after in itertools.pairwise(calls)
        )


class System:
    """Running processes, a Redis, and two people in a room."""

    def __init__(self, watched: list[Any], redis_url: str, urls: list[str]) -> None:
        import redis

        from tests.system.conftest import PASSWORD
        from tests.system.people import Browser, Page

        self.watched = watched
        self.redis = redis.Redis.from_url(redis_url)
        self.url = urls[0]
        self.browser, other = Browser(), Browser()
        self.browser.log_in(urls[0], "alice", PASSWORD)
        other.log_in(urls[-1], "bob", PASSWORD)
        self.room = int(re.search(r'data-room="(\d+)"', self.browser.get(urls[0])[1])[1])
        self.alice, self.bob = Page(urls[0], self.browser.cookie), Page(urls[-1], other.cookie)
        self.alice.ask("join", self.room)
        self.bob.ask("join", self.room)
        self.alice.hear()

    def close(self) -> None:
        """Leave the chat, and Redis."""
        self.alice.close()
        self.bob.close()
        self.redis.close()

    def page(self) -> None:
        """Load the page with the rooms, on a connection of its own."""
        self.browser.get(self.url)

    def line(self) -> None:
        """Alice says a line; both see it."""
        self.alice.say("send", self.room, message="Good evening")
        self.alice.hear()
        self.bob.hear()

    def watch(self, act: Callable[[], None]) -> Walk:
        """Count while `act` runs, and until all is quiet again."""
        time.sleep(QUIET_SECONDS)
        with self.redis.monitor() as monitor:
            self._signal(signal.SIGUSR1)
            time.sleep(QUIET_SECONDS)
            act()
            time.sleep(QUIET_SECONDS)
            self._signal(signal.SIGUSR2)
            told = {each.name: json.loads(each.line("walk ")) for each in self.watched}
            scripts, pushed = self._commands(monitor)
        processes = {name: [tuple(call) for call in calls] for name, calls in told.items()}
        return Walk(processes, scripts, pushed)

    def _commands(self, monitor: Any) -> tuple[Counter[str], int]:
        """Scripts that Redis was asked to run, by name; messages that they have pushed."""
        from gredis.carriers.redis import scripts

        names = {script.digest: name for name, script in scripts().items()}
        self.redis.echo(LAST)
        called: Counter[str] = Counter()
        pushed = 0
        while (command := monitor.next_command()["command"]) != f"ECHO {LAST}":
            verb, _, rest = command.partition(" ")
            if verb.upper() == "EVALSHA":
                called[names[rest.partition(" ")[0]]] += 1
            pushed += verb.upper() == "PUBLISH"
        return called, pushed

    def _signal(self, number: int) -> None:
        for child in self.watched:
            os.kill(child.pid, number)


@contextlib.contextmanager
def database() -> Iterator[str]:
    """A database with the users of the system tests and one room; dropped at the end."""
    import psycopg2

    from multichat import addresses
    from tests.system.children import family
    from tests.system.conftest import FILL

    url, name = addresses.database_url(), f"walks_{secrets.token_hex(4)}"
    fill = f"{FILL}\nfrom chat.models import Room\nRoom.objects.create(title='Garden')\n"
    with contextlib.closing(psycopg2.connect(url)) as admin:
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            try:
                fresh = urlsplit(url)._replace(path=f"/{name}").geturl()
                with family() as start:
                    places = {"DATABASE_URL": fresh, "REDIS_URL": "unix:///nowhere"}
                    start("shell", "manage.py", "shell", "-v0", "-c", fill, **places).output()
                yield fresh
            finally:
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def running(servers: int, database_url: str) -> Iterator[System]:
    """So many servers with relays, and one worker; 0: one process that is both."""
    from tests.conftest import running_redis
    from tests.system.children import family

    with running_redis("valkey") as redis_server, family() as start:
        places = {"REDIS_URL": redis_server.url, "DATABASE_URL": database_url}

        def run(name: str, *arguments: str) -> Any:
            return start(name, "-m", "bench.walks", "--child", *arguments, **places)

        def serve(name: str, module: str) -> Any:
            application = f"{module}:application"
            return run(name, "-m", "thyme", application, "--port", "0", "--stop-on-eof")

        if servers:
            worker = run("worker", "manage.py", "runworker2", "--stop-on-eof")
            worker.line("Worker ")
            serving = [serve(f"server {n + 1}", "multichat.relay") for n in range(servers)]
            watched = [*serving, worker]
        else:
            serving = watched = [serve("process", "multichat.asgi")]
        urls = [server.line("Thyme listens on ") for server in serving]
        with contextlib.closing(System(watched, redis_server.url, urls)) as system:
            yield system


def measured(
    servers: int, kinds: list[str], database_url: str, repeats: int = REPEATS
) -> dict[str, Walk]:
    """The median run of each kind of walk."""
    found = {}
    with running(servers, database_url) as system:
        for kind in kinds:
            act = getattr(system, kind)
            for _ in range(WARM_UP):
                act()
            walks = [system.watch(act) for _ in range(repeats)]
            found[kind] = sorted(walks, key=lambda walk: walk.calls)[repeats // 2]
    return found


# --- what is shown ------------------------------------------------------------------------


PLACES = {0: "one process", 2: "two servers, one worker"}
KINDS = {"page": "a page", "line": "a line of chat"}


def table(url: str) -> str:
    """All walks, measured, as a table."""
    lines = [
        "| walk | through | calls of our functions | files | greenlets | changes of greenlet "
        "| Redis scripts | messages pushed by Redis |",
        "|---" * 8 + "|",
    ]
    for servers, place in PLACES.items():
        for kind, walk in measured(servers, list(KINDS), url).items():
            figures = (walk.calls, walk.files, walk.greenlets, walk.switches)
            cells = (KINDS[kind], place, *figures, _named(walk.scripts), walk.pushed)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _named(scripts: Counter[str]) -> str:
    names = ", ".join(f"{count} {name}" for name, count in sorted(scripts.items()))
    return f"{scripts.total()}: {names}" if names else "0"


def shown(walk: Walk) -> str:
    """Every call in order, process by process; greenlets are numbered as they appear."""
    lines = []
    for name, calls in walk.processes.items():
        lines.append(f"{name}: {len(calls)} calls")
        numbers: dict[int, int] = {}
        for place, function, greenlet in calls:
            number = numbers.setdefault(greenlet, len(numbers) + 1)
            lines.append(f"  {number:3}  {place}  {function}")
    return "\n".join(lines)


def main() -> None:
    """Do what the arguments ask for."""
    if sys.argv[1:2] == ["--child"]:
        run_watched(sys.argv[2:])
        return
    parser = argparse.ArgumentParser("python -m bench.walks", description=__doc__.split("\n")[0])
    parser.add_argument("--show", choices=KINDS, help="the calls of one walk, not the table")
    parser.add_argument(
        "--servers",
        type=int,
        default=2,
        metavar="N",
        help="for --show; 0: one process without relay and worker (default: %(default)s)",
    )
    parser.add_argument("--write", action="store_true", help="write docs/architecture.md")
    options = parser.parse_args()
    with database() as url:
        if options.show:
            print(shown(measured(options.servers, [options.show], url)[options.show]))
            return
        text = table(url)
    print(text)
    if options.write:
        written = DOCUMENT.read_text()
        DOCUMENT.write_text(PLACE.sub(lambda found: found[1] + text + found[2], written))


if __name__ == "__main__":
    main()
