"""The moments in which a chat has no worker, or no server; and workers for one kind of work only.

Real processes, as few as show it: who is where is decided by the order in which workers start, each
with room for as many as are meant for it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from redis import Redis

from gredis.status import read
from tests.conftest import RedisServer, running_redis
from tests.system.children import DEADLINE, Child, family
from tests.system.conftest import PASSWORD, environment, serve
from tests.system.people import Browser, Page, came, left, said
from tests.system.test_resume import wait_until

CUTS = 20
BETWEEN_CUTS = 0.02  # s
CROWD, LINES = 20, 200


class Site:
    """Servers and workers, started one by one."""

    def __init__(self, redis: RedisServer, database: str, start: Callable[..., Child]) -> None:
        self.redis, self._database, self._start = redis, database, start

    def _run(self, name: str, *arguments: str) -> Child:
        return self._start(name, *arguments, **environment(self.redis, self._database, name))

    def server(self, name: str) -> tuple[Child, str]:
        """A server with a relay, and its address."""
        child = serve(self._run, name, "multichat.relay")
        return child, child.line("Thyme listens on ")

    def worker(self, name: str, *options: str) -> Child:
        """A worker that takes connections."""
        place = environment(self.redis, self._database, name)
        child = self._start(
            name, "manage.py", "runworker2", *options, **place, CHAT_RATE="1000", CHAT_BURST="1000"
        )
        child.line("Worker ")
        return child


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    with running_redis("valkey") as redis, family() as start:
        yield Site(redis, database, start)


@pytest.fixture
def pages() -> Iterator[list[Page]]:
    """Those that are open; closed at the end."""
    opened: list[Page] = []
    yield opened
    for page in opened:
        page.socket.shutdown()


def log_in(url: str, name: str) -> str:
    browser = Browser()
    browser.log_in(url, name, PASSWORD)
    return browser.cookie


def room_for_pages(url: str) -> int:
    return next(queue.room for queue in read(url).queues if queue.name == "http")


def test_who_leaves_while_between_workers_is_seen_leaving(site, room, pages):
    """Also when the worker that knew it has died: the server tells the next one."""
    _, url = site.server("server")
    doomed = site.worker("doomed", "--connections", "1")
    cookies = [log_in(url, name) for name in ("bob", "alice")]
    bob = Page(url, cookies[0])
    pages.append(bob)
    bob.ask("join", room)
    site.worker("other", "--connections", "1")
    alice = Page(url, cookies[1])  # there is no room for her where Bob is
    pages.append(alice)
    alice.ask("join", room)
    assert bob.hear() == came(room, "alice")
    doomed.kill()
    bob.close()
    site.worker("third", "--connections", "1")
    assert alice.hear() == left(room, "bob")


def test_connections_to_redis_are_cut_while_a_chat_goes_to_another_worker(site, room, pages):
    _, url = site.server("server")
    doomed = site.worker("doomed", "--connections", "1")
    cookies = [log_in(url, name) for name in ("bob", "alice")]
    bob = Page(url, cookies[0])
    pages.append(bob)
    bob.ask("join", room)
    site.worker("other", "--connections", "2")
    alice = Page(url, cookies[1])
    pages.append(alice)
    alice.ask("join", room)
    assert bob.hear() == came(room, "alice")
    with Redis.from_url(site.redis.url, decode_responses=True) as asking:
        doomed.kill()
        for number in range(CUTS):
            bob.say("send", room, message=f"line {number}")
            for each in asking.client_list():
                if each["name"] in ("server", "other"):
                    asking.client_kill_filter(_id=each["id"])
            time.sleep(BETWEEN_CUTS)
    lines = [said(room, "bob", f"line {number}") for number in range(CUTS)]
    for page in (bob, alice):
        assert [page.hear() for _ in lines] == lines
    bob.say("send", room, message="the last")
    assert alice.hear() == bob.hear() == said(room, "bob", "the last")


@pytest.mark.parametrize("loop", ["gevent", "asyncio"])
def test_all_who_were_at_a_killed_server_are_seen_leaving_also_by_each_other(
    site, room, pages, loop
):
    """Also when they are told lines at that moment: what nobody hears keeps nobody from leaving."""
    doomed, url = site.server("doomed")
    _, other_url = site.server("other")
    site.worker("worker", "--loop", loop)
    alice = Page(other_url, log_in(other_url, "alice"))
    cookie = log_in(url, "bob")
    bobs = [Page(url, cookie) for _ in range(CROWD)]
    pages += [alice, *bobs]
    alice.ask("join", room)
    for bob in bobs:
        bob.say("join", room)
    for _ in range(CROWD):
        assert alice.hear() == came(room, "bob")
    doomed.kill()
    for number in range(LINES):  # while the worker finds out
        alice.say("send", room, message=f"line {number}")
        time.sleep(0.001)
    heard = [alice.hear() for _ in range(LINES + CROWD)]
    assert heard.count(left(room, "bob")) == CROWD


def test_slow_pages_cannot_starve_the_chat(site, room, pages):
    """One worker for pages, one at a time, and one for the chat: what hangs holds up pages only."""
    _, url = site.server("server")
    site.worker("pages", "--queue", "http=1")
    site.worker("chat", "--queue", "websocket=50")
    cookie = log_in(url, "alice")
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), DEADLINE) as slow:
        head = "POST /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
        slow.sendall(f"{head}abc".encode())
        wait_until(lambda: room_for_pages(site.redis.url) == 0)
        with socket.create_connection((place.hostname, place.port), DEADLINE) as waiting:
            waiting.sendall(b"GET /accounts/login/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            alice = Page(url, cookie)
            pages.append(alice)
            alice.ask("join", room)
            alice.say("send", room, message="Here nothing hangs.")
            assert alice.hear() == said(room, "alice", "Here nothing hangs.")
            waiting.settimeout(0.5)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            slow.sendall(b"d")
            waiting.settimeout(DEADLINE)
            assert waiting.recv(12) == b"HTTP/1.1 200"
        assert slow.recv(12) == b"HTTP/1.1 403"  # no token against forgery
