"""The chat's settings: the project's, or else a default."""

import subprocess
import sys
from pathlib import Path

import pytest

import chat
from chat import conf
from multichat import settings as project


def test_a_setting_of_the_project_wins(settings):
    settings.CHAT_RATE = 3.5
    assert conf.CHAT_RATE == 3.5


def test_without_one_the_default_holds(settings):
    del settings.MSG_TYPE_ENTER
    assert conf.MSG_TYPE_ENTER == 4


def test_a_setting_that_does_not_exist_is_an_error():
    with pytest.raises(AttributeError, match="no setting 'CHAT_SPEED'"):
        _ = conf.CHAT_SPEED


def test_the_project_has_the_settings_of_the_original_as_they_were():
    names = ["MESSAGE", "WARNING", "ALERT", "MUTED", "ENTER", "LEAVE"]
    assert [getattr(project, f"MSG_TYPE_{name}") for name in names] == list(range(6))
    numbers = list(range(6))
    assert tuple(enumerate(names)) == project.MESSAGE_TYPES_CHOICES
    assert numbers == project.MESSAGE_TYPES_LIST
    assert project.NOTIFY_USERS_ON_ENTER_OR_LEAVE_ROOMS is True
    for name in ("MESSAGE_TYPES_CHOICES", "MESSAGE_TYPES_LIST"):
        assert getattr(project, name) == conf.DEFAULTS[name]


def test_the_chat_runs_without_gevent_thyme_and_gredis():
    program = """
import sys
sys.modules.update(dict.fromkeys(["gevent", "thyme", "gredis", "multichat"]))
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "chat"])
import django
django.setup()
import chat.routing, chat.urls
"""
    root = Path(chat.__file__).parent.parent
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)
