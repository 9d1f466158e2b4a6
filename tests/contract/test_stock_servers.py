"""The layer under stock Channels (Daphne, Uvicorn, Hypercorn, `runworker`: no gevent), and thyme.

One site, `stock_site.py`; every server must do the same with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import gevent
import pytest
import redis
from websockets.sync.client import ClientConnection, connect

from gredis.drivers.gevent import GeventCrossbar
from tests.contract.hubs import running_hub

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = "tests.contract.stock_site:application"
SERVERS: dict[str, Callable[[int], list[str]]] = {
    "daphne": lambda port: ["daphne", "-b", "127.0.0.1", "-p", str(port), "-v", "0", APPLICATION],
    "uvicorn": lambda port: ["uvicorn", "--port", str(port), "--log-level", "error", APPLICATION],
    "hypercorn": lambda port: [
        "hypercorn", "-b", f"127.0.0.1:{port}", "--log-level", "error", APPLICATION
    ],
    "thyme": lambda port: ["thyme", APPLICATION, "--port", str(port)],
}  # fmt: skip
DEADLINE = 60  # s for anything: much more than it takes, also where a machine stands still
WORKER = ["django", "runworker", "jobs", "-v", "0"]


class Programs:
    """Starts programs of the site against one Redis or hub; `said` is all they write."""

    def __init__(self, url: str, log: Path) -> None:
        self.log = log
        self.running: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {
            "GREDIS_URL": url,
            "DJANGO_SETTINGS_MODULE": "tests.contract.stock_settings",
            "PYTHONWARNINGS": "ignore:async_to_sync was passed",  # Channels with Daphne's `send`
        }

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            program = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=self.environment, cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        self.running.append(program)
        return program

    def serve(self, name: str) -> str:
        """Start a server; where it is."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        program = self.start(*SERVERS[name](port))
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return f"127.0.0.1:{port}"
            except OSError:
                assert program.poll() is None, self.said()
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.02)

    def said(self) -> str:
        """All that they have written, but for thyme's greeting."""
        lines = self.log.read_text().splitlines()
        return "\n".join(line for line in lines if not line.startswith("Thyme listens"))

    def stop(self) -> None:
        """As a service manager stops them: all end by themselves."""
        for program in self.running:
            program.send_signal(signal.SIGTERM)
        for program in self.running:
            program.wait(DEADLINE)
        self.running.clear()


@contextmanager
def programs(url: str, log: Path) -> Iterator[Programs]:
    started = Programs(url, log)
    try:
        yield started
    finally:
        for program in started.running:
            program.kill()
            program.wait()


def member(stack: ExitStack, place: str, path: str) -> ClientConnection:
    """Connect a WebSocket that is in the room."""
    peer = stack.enter_context(connect(f"ws://{place}/{path}", open_timeout=DEADLINE))
    return peer


def hear(peer: ClientConnection, text: str) -> None:
    assert peer.recv(timeout=DEADLINE) == text


def hear_until(peer: ClientConnection, text: str) -> list[str]:
    """Return the lines received before `text`."""
    heard = []
    while (said := peer.recv(timeout=DEADLINE)) != text:
        heard.append(said)
    return heard


def in_the_room(stack: ExitStack, *places: str) -> list[ClientConnection]:
    """One with a synchronous and one with an asynchronous consumer, at each place; all are in."""
    people = [member(stack, place, path) for place in places for path in ("sync", "async")]
    for speaker in people:
        speaker.send("here")
        for peer in people:
            hear(peer, "here")
    return people


def visit(stack: ExitStack, place: str) -> None:
    """Come, when all others have left, and stay: the server has dealt with their closing.

    Daphne does not wait for that. Stopped while a synchronous consumer hears of a disconnect, it
    may never exit: asgiref's thread, which Python joins at the end, waits for a loop that is over.
    """
    visitor = member(stack, place, "sync")
    visitor.send("here")
    hear(visitor, "here")


def swept(url: str) -> list[bytes]:
    """Keys that would stay for ever, after one more process has come and gone."""
    with redis.Redis.from_url(url) as looking_in, gevent.Timeout(DEADLINE):
        visitor = GeventCrossbar(url)
        visitor.open()
        while looking_in.smembers("gredis:known") != {visitor.inbox.encode()}:
            gevent.sleep(0.01)
        visitor.close()
        return [key for key in looking_in.scan_iter() if looking_in.ttl(key) < 0]


@pytest.mark.parametrize("redis_server", ["redis"], indirect=True)
@pytest.mark.parametrize("name", SERVERS)
def test_rooms_jobs_and_pages_work_over_two_servers_and_leave_nothing(name, redis_server, tmp_path):
    with programs(redis_server.url, tmp_path / "log") as started, ExitStack() as stack:
        one, two = started.serve(name), started.serve(name)
        started.start(*WORKER)
        people = in_the_room(stack, one, two)
        for peer in people:
            peer.send("job x")
            hear(peer, "done: job x")
        with urllib.request.urlopen(f"http://{one}/page", timeout=DEADLINE) as answer:
            assert answer.read() == (b"gevent" if name == "thyme" else b"no gevent")
        for peer in people:
            hear(peer, "a page")
        people[0].close()
        people[1].send("one has left")
        for peer in people[1:]:
            hear(peer, "one has left")
        stack.close()
        if name == "daphne":
            visit(stack, one)
            visit(stack, two)
        started.stop()
        assert started.said() == ""
        assert swept(redis_server.url) == []


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("name", SERVERS)
def test_websockets_stay_open_and_hear_of_the_loss_when_redis_comes_back_empty(
    name, redis_server, tmp_path
):
    with programs(redis_server.url, tmp_path / "log") as started, ExitStack() as stack:
        people = in_the_room(stack, started.serve(name), started.serve(name))
        redis_server.kill()
        people[0].send("said meanwhile")
        redis_server.start()
        before = [hear_until(people[0], "said meanwhile")]  # its process is there again
        for peer in people[1:]:
            before.append([peer.recv(timeout=DEADLINE)])  # the others hear that something was lost
        people[3].send("again")
        for peer in people:
            assert hear_until(peer, "again") in ([], ["said meanwhile"])
        assert before == [["lost None"]] * 4
        started.stop()


def test_the_same_through_a_hub(tmp_path):
    with running_hub() as hub, programs(hub.url, tmp_path / "log") as started:
        with ExitStack() as stack:
            one, two = started.serve("uvicorn"), started.serve("thyme")
            started.start(*WORKER)
            for peer in in_the_room(stack, one, two):
                peer.send("job x")
                hear(peer, "done: job x")
        started.stop()
        assert started.said() == ""
