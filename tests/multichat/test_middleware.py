"""Static files and the policy header, the same in both of Django's forms."""

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

SCRIPT = "/static/chat/chat.js"


@pytest.fixture(params=["sync", "async"])
def http(request):
    """ask(method, path, **headers) -> response."""
    if request.param == "sync":
        return lambda method, path, **headers: getattr(Client(), method)(path, headers=headers)
    client = AsyncClient()
    return lambda method, path, **headers: async_to_sync(getattr(client, method))(
        path, headers=headers
    )


def test_the_chat_s_files_are_served_without_collecting_them(http):
    answer = http("get", SCRIPT)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/javascript")
    assert b"WebSocket" in answer.content
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_the_admin_s_files_are_served(http):
    assert http("get", "/static/admin/css/base.css").status_code == 200


def test_head_has_no_body(http):
    answer = http("head", SCRIPT)
    assert answer.status_code == 200
    assert answer.content == b""


def test_a_file_that_the_browser_has_is_not_sent_again(http):
    first = http("get", SCRIPT)
    answer = http("get", SCRIPT, if_none_match=first.headers["ETag"])
    assert answer.status_code == 304
    assert answer.content == b""
    assert "Content-Type" not in answer.headers


def test_a_part_of_a_file_can_be_asked_for(http):
    whole = http("get", SCRIPT).content
    answer = http("get", SCRIPT, range="bytes=5-9")
    assert answer.status_code == 206
    assert answer.content == whole[5:10]


@pytest.mark.parametrize("path", ["/static/none.js", "/static/", "/static/../manage.py"])
def test_anything_else_is_not_a_file(http, path):
    assert http("get", path).status_code == 404


def test_every_answer_carries_the_policy(http):
    for path in (SCRIPT, "/accounts/login/", "/none"):
        assert "default-src 'self'" in http("get", path).headers["Content-Security-Policy"]


def test_debug_pages_may_carry_their_styles(http, settings):
    settings.DEBUG = True
    assert "Content-Security-Policy" not in http("get", "/none").headers
