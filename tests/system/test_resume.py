"""Sockets outlive workers: all are replaced, one by one, while users type."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import websocket

from tests.conftest import running_redis
from tests.system.children import DEADLINE, Child, family
from tests.system.conftest import PASSWORD, environment, serve
from tests.system.people import Browser, Page, left

USERS = ("alice", "bob", "carol")
PAGES = 6


class Typist:
    """A page whose user types lines all the time, and notes what it hears."""

    def __init__(self, page: Page, room: int, name: str) -> None:
        self.page, self.room, self.name = page, room, name
        self.said: list[str] = []
        self.heard: Counter[str] = Counter()
        self.others: list[dict] = []
        self.closed: object = None
        self._typing = threading.Event()
        self._typing.set()
        self._threads = [threading.Thread(target=f) for f in (self._listen, self._type)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        try:
            while True:
                opcode, data = self.page.socket.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    self.closed = data
                    return
                frame = json.loads(data)
                if frame.get("msg_type") == 0:
                    self.heard[frame["message"]] += 1
                else:
                    self.others.append(frame)
        except (OSError, websocket.WebSocketException) as error:
            self.closed = error

    def _type(self) -> None:
        number = 0
        while self._typing.is_set():
            number += 1
            self.say(f"{self.name} {number}")
            time.sleep(0.4)  # a fast typist

    def say(self, line: str) -> None:
        self.page.say("send", self.room, message=line)
        self.said.append(line)

    def rest(self) -> None:
        self._typing.clear()
        if self._threads[1].is_alive():
            self._threads[1].join(DEADLINE)

    def leave(self) -> None:
        self.page.socket.send_close()
        self._threads[0].join(DEADLINE)


@pytest.fixture
def typists() -> Iterator[list[Typist]]:
    """Those who type; they are made to rest and to leave at the end, if they have not."""
    people: list[Typist] = []
    yield people
    for typist in people:
        typist.page.socket.shutdown()
        typist.rest()


@pytest.fixture(params=["gevent", "asyncio"])
def site(request: pytest.FixtureRequest, database: str) -> Iterator[tuple[str, Callable, dict]]:
    """One server, and workers that come and go; (its url, a function that starts a worker, all)."""
    workers: dict[str, Child] = {}
    with running_redis("valkey") as redis, family() as start:

        def worker(name: str) -> Child:
            arguments = ("manage.py", "runworker2", "--loop", request.param)
            child = start(
                name,
                *arguments,
                **environment(redis, database, name),
                CHAT_RATE="1000",
                CHAT_BURST="1000",
            )
            child.line("Worker ")
            workers[name] = child
            return child

        def run(name: str, *arguments: str) -> Child:
            return start(name, *arguments, **environment(redis, database, name))

        server = serve(run, "server", "multichat.relay")
        yield server.line("Thyme listens on "), worker, workers


def wait_until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_all_workers_are_replaced_while_users_type(site, room, number, typists):
    url, start_worker, workers = site
    for name in ("one", "two"):
        start_worker(name)
    for place in range(PAGES):
        browser = Browser()
        browser.log_in(url, USERS[place % 3], PASSWORD)
        page = Page(url, browser.cookie)
        page.say("join", room)
        while "join" not in page.hear():
            pass
        typists.append(Typist(page, room, f"page {place}"))
    for typist in typists:
        typist.start()
    for name in ("three", "four"):
        start_worker(name)
        old = next(iter(workers.values()))
        if number == signal.SIGKILL:
            old.kill()
        else:
            old.end()
        del workers[next(iter(workers))]
        before = [len(typist.said) for typist in typists]
        wait_until(
            lambda before=before: all(
                len(typist.said) > many + 3 for typist, many in zip(typists, before, strict=True)
            )
        )
    for typist in typists:
        typist.rest()
    for typist in typists:
        typist.say(f"{typist.name}: good-bye")
    farewells = {f"{typist.name}: good-bye" for typist in typists}
    wait_until(lambda: all(farewells <= typist.heard.keys() for typist in typists))
    everything = [line for typist in typists for line in typist.said]
    heard_by_any = set().union(*(typist.heard for typist in typists))
    assert set(everything) == heard_by_any  # each line that was typed has been said
    for typist in typists:
        assert typist.closed is None
        assert set(typist.heard.values()) == {1}
        if number == signal.SIGTERM:
            assert typist.heard.keys() == set(everything)
        assert not any("error" in frame for frame in typist.others)
        assert not any(frame.get("msg_type") == 5 for frame in typist.others)  # nobody has left
    for typist in typists[1:]:
        typist.leave()
    goodbyes = [left(room, USERS[place % 3]) for place in range(1, PAGES)]
    first = typists[0]
    wait_until(lambda: all(first.others.count(each) == goodbyes.count(each) for each in goodbyes))
    first.leave()
