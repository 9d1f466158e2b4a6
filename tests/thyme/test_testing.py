"""`ThymeProcess`: what Channels' live test case asks of a server process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
import websocket
from channels.generic.websocket import WebsocketConsumer
from channels.routing import ProtocolTypeRouter
from channels.testing import ChannelsLiveServerTestCase
from channels.testing.live import set_database_connection
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.db import connections
from django.test import override_settings
from django.utils.functional import SimpleLazyObject
from gevent import monkey

from thyme.testing import ServerProcessError, ThymeProcess

LIMIT = 60
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _database(django_db_setup, django_db_blocker):
    """pytest-django blocks the database outside of tests; the server is started in setUpClass."""
    with django_db_blocker.unblock():
        yield


async def greet(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("http only")
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"hello"})


def greeting():
    return greet


@contextmanager
def serving(get_application, **options):
    """The process, ready; it has ended afterwards."""
    process = ThymeProcess("localhost", get_application, **options)
    process.start()
    try:
        assert process.ready.wait(LIMIT)
        assert process.is_alive()
        yield process
    finally:
        process.terminate()
        process.join()
    assert not process.is_alive()


def page(process):
    url = f"http://localhost:{process.port.value}/"
    with urllib.request.urlopen(url, timeout=LIMIT) as answer:
        return answer.read()


def test_it_serves_in_a_process_of_its_own_until_it_is_terminated():
    with serving(greeting) as process:
        assert page(process) == b"hello"
    assert process.exitcode == 0


def test_it_wakes_no_lazy_object_of_the_test_process(capfd):
    """A request that the test process has served holds its user, who is asked of the database."""
    woken = []
    held = [SimpleLazyObject(lambda: woken.append("user") or 1 / 0) for _ in range(3)]
    with serving(greeting) as process:
        assert page(process) == b"hello"
    assert woken == []
    assert capfd.readouterr().err == ""
    del held


async def tell(body, scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


def state_of_the_process():
    patched = threading.Lock().__class__.__module__.startswith("gevent")
    body = f"{monkey.is_module_patched('socket')} {patched} {len(HELD)}".encode()
    return partial(tell, body)


HELD = []


def test_the_process_is_patched_and_holds_nothing_of_the_test(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "HELD", ["something"])
    with serving(state_of_the_process) as process:
        assert page(process) == b"True True 0"


class Echo(WebsocketConsumer):
    def receive(self, text_data):
        self.send(text_data)


def echo_and_static_files():
    return ASGIStaticFilesHandler(ProtocolTypeRouter({"websocket": Echo.as_asgi()}))


def test_a_synchronous_consumer_behind_the_static_files_of_the_test_case_answers():
    with serving(echo_and_static_files) as process:
        place = f"ws://localhost:{process.port.value}/"
        with closing(websocket.create_connection(place, timeout=LIMIT)) as browser:
            browser.send("hello")
            assert browser.recv() == "hello"


def write(path, text):
    path.write_text(text)


def test_setup_comes_before_the_application_and_teardown_at_the_end(tmp_path):
    made, gone = tmp_path / "made", tmp_path / "gone"
    options = {"setup": partial(write, made, "yes"), "teardown": partial(write, gone, "yes")}
    with serving(partial(told_by, made), **options) as process:
        assert page(process) == b"yes"
        assert not gone.exists()
    assert gone.read_text() == "yes"


def told_by(path):
    return partial(tell, path.read_bytes())


def setting():
    return partial(tell, f"{settings.SECRET_KEY} {settings.DATABASES['default']['NAME']}".encode())


def test_the_server_has_the_settings_and_the_database_of_the_test():
    with override_settings(SECRET_KEY="of the test"):
        with serving(setting, setup=set_database_connection) as process:
            name = connections["default"].settings_dict["NAME"]
            assert page(process) == f"of the test {name}".encode()


def test_a_setting_that_cannot_be_handed_over_is_named():
    with override_settings(LOGIN_URL=lambda: "/"):
        with pytest.raises(ServerProcessError, match="the setting LOGIN_URL cannot be pickled"):
            ThymeProcess("localhost", greeting).start()


def test_a_callable_that_cannot_be_handed_over_is_named():
    with pytest.raises(ServerProcessError, match="get_application cannot be pickled"):
        ThymeProcess("localhost", lambda: greet).start()


def broken():
    raise ValueError("no application")


def exits():
    raise SystemExit("no licence")


def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("get_application", "reason", "code"),
    [
        (broken, "ValueError: no application", 1),
        (exits, "SystemExit: no licence", 1),
        (is_killed, "ended with code -9", -9),
    ],
)
def test_the_test_is_told_why_a_server_cannot_start(get_application, reason, code):
    process = ThymeProcess("localhost", get_application)
    process.start()
    with pytest.raises(ServerProcessError, match=reason):
        process.ready.wait(LIMIT)
    process.join()
    assert process.exitcode == code
    assert not process.ready.is_set()
    with pytest.raises(ServerProcessError, match=reason):
        process.ready.wait(0)


def test_waiting_for_a_server_that_is_not_ready_yet_times_out():
    process = ThymeProcess("localhost", partial(time.sleep, 1000))
    process.start()
    try:
        assert not process.ready.wait(0)
        assert process.is_alive()
    finally:
        process.terminate()
        process.join()
    assert process.exitcode == -signal.SIGTERM


PARENT = """
import os, signal
from tests.thyme.test_testing import ThymeProcess, greeting
process = ThymeProcess("localhost", greeting)
process.start()
process.ready.wait()
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_ends_with_the_test_process_however_that_ends():
    command = [sys.executable, "-c", PARENT]
    # Returns when everybody who holds standard output has ended, the server included.
    parent = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=LIMIT)
    assert parent.returncode == -signal.SIGKILL
    assert parent.stdout == b"ready\n"


@pytest.mark.django_db(transaction=True)
class TestLive(ChannelsLiveServerTestCase):
    """A live test as people have them, with the one attribute set."""

    ProtocolServerProcess = ThymeProcess

    @classmethod
    def setUpClass(cls):
        """The test process holds requests whose users nobody has asked for yet."""
        cls.held = SimpleLazyObject(lambda: pytest.fail("the user of a request was woken"))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        """Drop the request, so that no later test that looks at all objects wakes its user."""
        super().tearDownClass()
        del cls.held

    def test_pages_see_the_test_database_and_static_files_are_served(self):
        get_user_model().objects.create_user("ann", password="secret-of-ann")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        login = f"{self.live_server_url}/accounts/login/"
        with browser.open(login, timeout=LIMIT) as page:
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.read().decode())[1]
        form = {"csrfmiddlewaretoken": token, "username": "ann", "password": "secret-of-ann"}
        with browser.open(login, urllib.parse.urlencode(form).encode(), timeout=LIMIT) as page:
            assert page.url == f"{self.live_server_url}/"
            assert "ann" in page.read().decode()
        with browser.open(f"{self.live_server_url}/static/admin/css/base.css") as file:
            assert file.status == 200
