"""The ledger: a crowd chats over two servers and three workers, while these and their connections
to Redis are killed at random; then nothing may be missing, doubled, misplaced or left over.

Twenty seconds of it in `make test`. `make soak` goes on for as long as one likes:

    make soak SECONDS=600 SEED=7

The seed decides who is killed when; what the crowd does in between no seed can repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Iterator

import psycopg2
import pytest
from redis import Redis

from gredis.status import Figures, read
from tests.conftest import RedisServer, running_redis
from tests.system.children import DEADLINE, Child, Start, alive, family
from tests.system.conftest import environment
from tests.system.ledger import Death, Deaths, Person, accepted, accounts, chat, moment

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
PEOPLE, ROOMS, ROOMS_EACH = 200, 20, 2
WORKERS, SERVERS = 3, 2
CONNECTIONS = 500  # per queue and worker

COUNTED = ("-m", "tests.system.counted")
GREENLETS = 15  # of a process when all have left; eight it is: itself, Redis, signals, lifelines

MENTIONED = 30  # lines of a report

FIRST_DEATH = 4.0  # s, when all have come
BETWEEN_DEATHS = 7.0  # s: between two of them the ledger excuses nothing
BETWEEN_CUTS = 0.3  # s

CROWD = f"""
from django.conf import settings
from django.contrib.auth import SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from chat.models import Room
rooms = [Room.objects.create(title=f"Ledger {{n}}").pk for n in range({ROOMS})]
print("rooms", *rooms)
for number in range({PEOPLE}):
    user = User.objects.create(username=f"p{{number}}", password="!")
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    print("person", user.username, f"{{settings.SESSION_COOKIE_NAME}}={{session.session_key}}")
"""
GONE = """
from django.contrib.auth.models import User
from chat.models import Room
Room.objects.filter(title__startswith="Ledger ").delete()
User.objects.filter(password="!").delete()
"""


class Site:
    """The processes of the chat, which can be killed, cut off and replaced."""

    def __init__(self, start: Start, redis: RedisServer, database: str) -> None:
        self.start, self.redis, self.database = start, redis, database
        self.listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(SERVERS)]
        self.urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in self.listening]
        self.number = 0
        self.workers = [self.new_worker() for _ in range(WORKERS)]
        self.servers = [self.new_server(place) for place in range(SERVERS)]

    def new_worker(self) -> Child:
        """One that takes connections."""
        name = self._name("worker")
        worker = self.start(
            name, *COUNTED, "manage.py", "runworker2",
            "--connections", str(CONNECTIONS), "--stop-on-eof",
            CHAT_RATE="50", DATABASE_MAX_CONNECTIONS="10",
            **environment(self.redis, self.database, name),
        )  # fmt: skip
        worker.line("Worker ")
        return worker

    def new_server(self, place: int) -> Child:
        """One on a socket that it inherits: who knocks while there is none has to wait."""
        name, number = self._name("server"), self.listening[place].fileno()
        server = self.start(
            name, *COUNTED, "-m", "thyme", "multichat.relay:application",
            "--bind", f"fd://{number}", "--stop-on-eof",
            descriptors=(number,), **environment(self.redis, self.database, name),
        )  # fmt: skip
        server.line("Thyme listens on ")
        return server

    def greenlets(self) -> list[int]:
        """How many each of the processes has."""
        children = [*self.workers, *self.servers]
        for child in children:
            os.kill(child.pid, signal.SIGUSR2)
        return [int(child.line("greenlets ")) for child in children]

    def _name(self, kind: str) -> str:
        self.number += 1
        return f"ledger-{kind}-{self.number}"


class Chaos:
    """Kills what a seeded dice says; `deaths` are those that excuse a missed line."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site, self.dice = site, random.Random(seed)
        self.deaths = Deaths()
        self.done: list[str] = []

    async def __call__(self) -> None:
        """Until cancelled."""
        cuts = asyncio.create_task(self._cut_for_ever())
        try:
            await asyncio.sleep(FIRST_DEATH)
            kinds = [self.kill_a_worker, self.stop_a_worker, self.kill_a_server]
            while True:
                self.dice.shuffle(kinds)
                for kind in kinds:
                    await asyncio.shield(kind())  # what has been begun is ended
                    await asyncio.sleep(BETWEEN_DEATHS)
        finally:
            cuts.cancel()

    async def kill_a_worker(self) -> None:
        worker = self.site.workers.pop(self.dice.randrange(WORKERS))
        with self._death(worker, server=False):
            self.site.workers.append(await asyncio.to_thread(self.site.new_worker))

    async def stop_a_worker(self) -> None:
        """As in a deploy: a new one first, then SIGTERM to an old one."""
        self.site.workers.append(await asyncio.to_thread(self.site.new_worker))
        worker = self.site.workers.pop(self.dice.randrange(WORKERS))
        self.done.append(f"{moment(time.monotonic())} {worker.name} stopped")
        await asyncio.to_thread(worker.end)

    async def kill_a_server(self) -> None:
        place = self.dice.randrange(SERVERS)
        with self._death(self.site.servers[place], server=True):
            self.site.servers[place] = await asyncio.to_thread(self.site.new_server, place)

    @contextlib.contextmanager
    def _death(self, child: Child, server: bool) -> Iterator[None]:
        """Kill it, and see it replaced."""
        death = Death(server, time.monotonic())
        self.deaths.append(death)
        self.done.append(f"{moment(death.killed)} {child.name} killed")
        child.kill()
        yield
        death.replaced = time.monotonic()

    async def _cut_for_ever(self) -> None:
        while True:
            await asyncio.sleep(BETWEEN_CUTS)
            self.cut_a_connection()

    def cut_a_connection(self) -> None:
        """One of those to Redis."""
        with Redis.from_url(self.site.redis.url, decode_responses=True) as asking:
            ours = [each for each in asking.client_list() if each["name"].startswith("ledger-")]
            victim = self.dice.choice(ours)
            asking.client_kill_filter(_id=victim["id"])
        self.done.append(f"{victim['name']} cut off")


@pytest.fixture
def crowd(database: str) -> Iterator[list[tuple[str, ...]]]:
    """("rooms", id, …) and ("person", name, cookie) of all who chat here."""
    with family() as start:

        def shell(code: str) -> str:
            places = {"DATABASE_URL": database, "REDIS_URL": "unix:///nowhere"}
            return start("shell", "manage.py", "shell", "-v0", "-c", code, **places).output()

        yield [tuple(line.split()) for line in shell(CROWD).splitlines()]
        shell(GONE)


def test_nothing_is_missing_doubled_misplaced_or_left_over(crowd, database):
    dice = random.Random(SEED)
    (_, *rooms), *cookies = crowd
    with running_redis("valkey") as redis, family() as start:
        site = Site(start, redis, database)
        people = [Person(name, cookie, site.urls, dice) for _, name, cookie in cookies]
        for person in people:
            person.rooms = set(map(int, dice.sample(rooms, ROOMS_EACH)))
        chaos = Chaos(site, SEED)
        asyncio.run(chat(people, SECONDS, chaos))
        told = told_of(people, chaos)
        if "SOAK_SECONDS" in os.environ:
            print(told)
        wrong = accounts(people, chaos.deaths)
        assert not wrong, "\n".join([told, *wrong[:MENTIONED]])
        strict = [line for line in accepted(people) if not chaos.deaths.excuse(line)]
        assert len(strict) > PEOPLE, told  # or else the run has shown nothing
        assert left_over(site) == [], told
        for child in [*site.workers, *site.servers]:
            child.end()
        for listening in site.listening:
            listening.close()
        with Redis.from_url(redis.url) as asking:
            # What is known of the dead expires within a minute, for letters that come late.
            assert [key for key in asking.keys("*") if asking.ttl(key) < 0] == [], told
    assert [child.name for child in alive if child.name.startswith("ledger-")] == []


def told_of(people: list[Person], chaos: Chaos) -> str:
    """What happened, for people."""
    lines = [line for person in people for line in person.lines.values()]
    heard = sum(stay.heard.total() for person in people for stay in person.stays)
    return (
        f"{len(lines)} lines said, {len(list(accepted(people)))} accepted, {heard} heard; "
        f"{sum(person.visits for person in people)} visits, "
        f"{sum(len(person.cuts) for person in people)} times cut off; "
        f"seed {SEED}: {', '.join(each for each in chaos.done if 'cut' not in each)}, "
        f"{sum('cut' in each for each in chaos.done)} connections cut"
    )


def left_over(site: Site) -> list[str]:
    """What is still there some time after the last page has closed, but should not be."""
    deadline = time.monotonic() + DEADLINE
    while True:
        found = remains(read(site.redis.url)) + database_connections(site.database)
        found += [f"{many} greenlets" for many in site.greenlets() if many > GREENLETS]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def remains(figures: Figures) -> list[str]:
    found = [f"group {group.name}" for group in figures.groups]
    found += [f"inbox of the dead {each.name}" for each in figures.inboxes if not each.present]
    for queue in figures.queues:
        if queue.waiting or queue.room != WORKERS * CONNECTIONS:
            found.append(f"queue {queue.name}: {queue.waiting} wait, room for {queue.room}")
    return found


def database_connections(database: str) -> list[str]:
    with contextlib.closing(psycopg2.connect(database)) as connection, connection.cursor() as sql:
        sql.execute(
            "SELECT application_name FROM pg_stat_activity WHERE state <> 'idle'"
            " AND application_name LIKE 'ledger-%'"
        )
        return [f"{name} still asks Postgres" for (name,) in sql.fetchall()]
