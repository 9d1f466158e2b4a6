"""Settings that stand on their own, and follow the environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import multichat
from multichat import addresses, settings

ROOT = Path(multichat.__file__).parent.parent
URLS = {"DATABASE_URL": "postgresql://u@/d?host=/run/dir", "REDIS_URL": "redis://elsewhere:1/2"}


def settings_under(environment, first="pass"):
    """The settings as a new process has them, with `first` run before anything else."""
    program = f"{first}; import json; from multichat import settings as s; print(json.dumps({{k: v \
        for k, v in vars(s).items() if k.isupper()}}, default=str))"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "CHAT_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean | URLS | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_as_they_stand_settings_are_safe_and_local():
    values = settings_under({})
    assert values["DEBUG"] is False
    assert values["ALLOWED_HOSTS"] == ["localhost", "127.0.0.1", "[::1]"]
    assert len(values["SECRET_KEY"]) >= 50
    assert values["DATABASES"]["default"]["ENGINE"] == "django.db.backends.postgresql"
    assert values["DATABASES"]["default"]["OPTIONS"] == {"host": "/run/dir"}
    assert values["CHANNEL_LAYERS"]["default"] == {
        "BACKEND": "gredis.GredisChannelLayer",
        "CONFIG": {"url": "redis://elsewhere:1/2"},
    }


def test_on_gevent_the_database_is_a_bounded_pool():
    patch = "from gevent import monkey; monkey.patch_all()"
    values = settings_under({"DATABASE_MAX_CONNECTIONS": "7"}, first=patch)
    database = values["DATABASES"]["default"]
    assert database["ENGINE"] == "multichat.postgres"
    assert database["OPTIONS"] == {"host": "/run/dir", "MAX_CONNS": 7, "REUSE_CONNS": 7}
    assert database["CONN_MAX_AGE"] == 0


def test_gevent_that_is_only_imported_changes_nothing():
    values = settings_under({}, first="import gevent")
    assert values["DATABASES"]["default"]["ENGINE"] == "django.db.backends.postgresql"


def test_the_environment_is_heard():
    values = settings_under(
        {
            "DJANGO_SECRET_KEY": "given",
            "DJANGO_DEBUG": "1",
            "DJANGO_ALLOWED_HOSTS": "chat.example, .example.org,",
            "DJANGO_HTTPS": "1",
            "CHAT_RATE": "99",
        }
    )
    assert values["SECRET_KEY"] == "given"
    assert values["DEBUG"] is True
    assert values["ALLOWED_HOSTS"] == ["chat.example", ".example.org"]
    assert values["SESSION_COOKIE_SECURE"] is True
    assert values["CHAT_RATE"] == 99


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off"])
def test_a_switch_is_off_unless_it_is_on(monkeypatch, value):
    monkeypatch.setenv("DJANGO_DEBUG", value)
    assert not settings.is_enabled("DJANGO_DEBUG")


@pytest.mark.parametrize(
    ("ask", "variable", "service", "names"),
    [
        (addresses.redis_url, "REDIS_URL", "redis", {}),
        (
            addresses.database_url,
            "DATABASE_URL",
            "postgres",
            {"database": "multichat", "role": "multichat"},
        ),
    ],
)
def test_an_address_is_the_environment_s_or_else_the_embedded_server_s(
    monkeypatch, ask, variable, service, names
):
    monkeypatch.setenv(variable, "given://")
    assert ask() == "given://"
    monkeypatch.setattr(f"thyme.services.{service}", lambda state, **names: f"embedded://{names}")
    assert ask() == "given://"
    monkeypatch.setenv(variable, "")
    assert ask() == f"embedded://{names}"


def test_production_settings_pass_the_deployment_checks():
    environment = {
        "DJANGO_HTTPS": "1",
        "DJANGO_ALLOWED_HOSTS": "chat.example",
        "DJANGO_SECRET_KEY": "k" * 25 + "0123456789abcdefghijklmnopqrs",
    }
    clean = {k: v for k, v in os.environ.items() if not k.startswith("DJANGO_")}
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT,
        env=clean | URLS | environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
