"""The pool of connections on gevent, tried in a patched process of its own."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import multichat

BEGIN = """
from gevent import monkey; monkey.patch_all()
from psycogreen.gevent import patch_psycopg; patch_psycopg()
import gevent, django
from django.db import connection, close_old_connections
django.setup()

def ask(*statements):
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchone()[0]
    except django.db.Error as error:
        return str(error)
    finally:
        close_old_connections()

def at_once(number, *statements):
    with gevent.Timeout(120):
        greenlets = [gevent.spawn(ask, *statements) for _ in range(number)]
        return [greenlet.get() for greenlet in greenlets]

OURS = " from pg_stat_activity where application_name = current_setting('application_name')"
COUNT = "select count(*)" + OURS
"""


def run(program, **environment):
    subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        cwd=Path(multichat.__file__).parent.parent,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "multichat.settings",
            "DATABASE_MAX_CONNECTIONS": "3",
            "PGAPPNAME": f"pool-test-{secrets.token_hex(4)}",
        }
        | environment,
        check=True,
        timeout=180,
    )


def test_greenlets_that_start_at_once_stay_within_the_bound():
    run("assert max(at_once(30, 'select pg_sleep(0.01)', COUNT)) == 3")


def test_connections_are_used_again():
    run("""
first = {ask("select pg_backend_pid()") for _ in range(5)}
assert len(first) == 1, first
""")


def test_connections_that_died_in_use_do_not_use_up_the_pool():
    run("""
for _ in range(2):
    died = at_once(6, "select pg_terminate_backend(pg_backend_pid())")
    assert all("terminat" in str(answer) for answer in died), died
assert at_once(6, "select 1") == [1] * 6
""")


def test_idle_connections_that_died_are_replaced():
    run("""
at_once(3, "select pg_sleep(0.01)::text")
assert ask("select count(pg_terminate_backend(pid))" + OURS + " and pid <> pg_backend_pid()") == 2
while ask(COUNT) != 1:
    gevent.sleep(0.01)
assert at_once(6, "select 1") == [1] * 6
""")


def test_a_transaction_left_open_is_undone():
    run("""
connection.set_autocommit(False)
ask("create temporary table t (x int)", "select 1")
assert "does not exist" in str(ask("select count(*) from t"))
""")


def test_who_waits_for_a_database_that_is_down_is_told_so():
    run(
        """
answers = at_once(10, "select 1")
assert len(answers) == 10 and all(isinstance(answer, str) for answer in answers), answers
""",
        DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing",
    )
