"""Greenlets that have opened a database connection are known, and close it in time."""

from __future__ import annotations

import gevent
import pytest
from django.db.utils import ConnectionHandler

from thyme.fastpath import database
from thyme.fastpath.database import close_old_connections, used_database


@pytest.mark.parametrize(("seconds", "stays"), [(0, False), (60, True)])
def test_a_greenlet_that_has_opened_a_connection_looks_after_it(
    monkeypatch, tmp_path, django_db_blocker, seconds, stays
):
    engine = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db"}
    connections = ConnectionHandler({"default": engine | {"CONN_MAX_AGE": seconds}})
    monkeypatch.setattr(database, "connections", connections)
    database.mark_greenlets_that_connect()

    def handle() -> list[bool]:
        said = [used_database(gevent.getcurrent())]
        connections["default"].ensure_connection()
        said.append(used_database(gevent.getcurrent()))
        close_old_connections()
        said.append(connections["default"].connection is not None)
        return [*said, used_database(gevent.getcurrent())]

    with django_db_blocker.unblock():
        assert gevent.spawn(handle).get() == [False, True, stays, stays]
        connections.close_all()
