"""`ThymeProcess`: what Channels' live test case asks of a server process."""

from __future__ import annotations

import re
import sys
import types
import urllib.parse
import urllib.request
from contextlib import closing
from unittest import mock

import pytest
import websocket
from channels.generic.websocket import WebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

from thyme.testing import ThymeProcess

LIMIT = 60


@pytest.fixture(scope="module", autouse=True)
def _database(django_db_setup, django_db_blocker):
    """pytest-django blocks the database outside of tests; the server is forked in setUpClass."""
    with django_db_blocker.unblock():
        yield


async def greet(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("http only")
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"hello"})


def test_it_serves_in_a_process_of_its_own_until_it_is_terminated():
    process = ThymeProcess("localhost", lambda: greet, setup=lambda: None)
    process.start()
    try:
        assert process.ready.wait(LIMIT)
        url = f"http://localhost:{process.port.value}/"
        with urllib.request.urlopen(url, timeout=LIMIT) as answer:
            assert answer.read() == b"hello"
        assert process.is_alive()
    finally:
        process.terminate()
        process.join(LIMIT)
    assert not process.is_alive()


class Echo(WebsocketConsumer):
    def receive(self, text_data):
        self.send(text_data)


def test_a_synchronous_consumer_behind_the_static_files_of_the_test_case_answers():
    def application():
        return ASGIStaticFilesHandler(ProtocolTypeRouter({"websocket": Echo.as_asgi()}))

    process = ThymeProcess("localhost", application)
    process.start()
    try:
        assert process.ready.wait(LIMIT)
        place = f"ws://localhost:{process.port.value}/"
        with closing(websocket.create_connection(place, timeout=LIMIT)) as browser:
            browser.send("hello")
            assert browser.recv() == "hello"
    finally:
        process.terminate()
        process.join(LIMIT)


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_cannot_start_ends():
    def broken():
        raise ValueError("no application")

    process = ThymeProcess("localhost", broken)
    process.start()
    process.join(LIMIT)
    assert process.exitcode == 1
    assert not process.ready.is_set()


def live_server_test_case():
    """Channels' class; it imports daphne, which nobody needs who serves with thyme."""
    stub = types.ModuleType("daphne.testing")
    stub.DaphneProcess = None
    with mock.patch.dict(sys.modules, {"daphne": types.ModuleType("daphne"), stub.__name__: stub}):
        from channels.testing import ChannelsLiveServerTestCase
    return ChannelsLiveServerTestCase


@pytest.mark.django_db(transaction=True)
class TestLive(live_server_test_case()):
    """A live test as people have them, with the one attribute set."""

    ProtocolServerProcess = ThymeProcess

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
