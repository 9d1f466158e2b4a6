"""The conversation: each row of the table in chat/protocol.py, and what must never happen."""

import json
from types import SimpleNamespace

import pytest
from django.db import OperationalError

MESSAGE, ENTER, LEAVE = 0, 4, 5


def line(msg_type, room, user, message=None):
    frame = {"msg_type": msg_type, "room": str(room.pk), "username": user.username}
    return frame if message is None else frame | {"message": message}


# The handshake


async def test_a_user_who_is_logged_in_is_let_in(open_browser, bob):
    await open_browser(bob)


async def test_an_anonymous_socket_is_refused_at_the_handshake(new_browser):
    browser = await new_browser(None)
    assert not await browser.connect()


async def test_a_deactivated_user_is_refused_at_the_handshake(new_browser, bob):
    browser = await new_browser(bob)
    bob.is_active = False
    await bob.asave()
    assert not await browser.connect()


async def test_a_page_of_another_site_is_refused_at_the_handshake(new_browser, bob):
    browser = await new_browser(bob, origin="http://evil.example")
    assert not await browser.connect()


# Join


async def test_join_is_answered_with_the_id_as_a_string_and_the_title(open_browser, bob, lobby):
    browser = await open_browser(bob)
    assert await browser.answer("join", lobby.pk) == {"join": str(lobby.pk), "title": "Lobby"}


async def test_join_is_told_to_the_others_in_the_room_only(open_browser, alice, bob, lobby):
    early = await open_browser(alice, lobby)
    late = await open_browser(bob, lobby)
    assert await early.frame() == line(ENTER, lobby, bob)
    assert await late.heard_nothing()


async def test_an_id_and_its_digits_are_the_same_room(open_browser, alice, bob, lobby):
    witness = await open_browser(alice, lobby)
    browser = await open_browser(bob)
    await browser.answer("join", str(lobby.pk))
    await browser.answer("join", lobby.pk)
    assert await browser.answer("send", str(lobby.pk), message="one") == line(
        MESSAGE, lobby, bob, "one"
    )
    assert await browser.heard_nothing()  # one line, not two
    assert await browser.answer("leave", str(lobby.pk)) == {"leave": str(lobby.pk)}
    heard = [await witness.frame() for _ in range(3)]
    assert [frame["msg_type"] for frame in heard] == [ENTER, MESSAGE, LEAVE]


async def test_a_second_join_is_answered_and_changes_nothing(open_browser, alice, bob, lobby):
    witness = await open_browser(alice, lobby)
    browser = await open_browser(bob, lobby, lobby)
    assert await witness.frame() == line(ENTER, lobby, bob)
    assert await witness.heard_nothing()
    await browser.answer("leave", lobby.pk)
    assert await browser.answer("send", lobby.pk, message="x") == {"error": "ROOM_ACCESS_DENIED"}


async def test_joining_a_room_that_does_not_exist_is_invalid(open_browser, bob, lobby):
    browser = await open_browser(bob)
    assert await browser.answer("join", lobby.pk + 1) == {"error": "ROOM_INVALID"}


# Leave


async def test_leave_is_answered_and_told_to_the_others(open_browser, alice, bob, lobby):
    browser = await open_browser(bob, lobby)
    witness = await open_browser(alice, lobby)
    await browser.frame()
    assert await browser.answer("leave", lobby.pk) == {"leave": str(lobby.pk)}
    assert await witness.frame() == line(LEAVE, lobby, bob)
    await witness.answer("send", lobby.pk, message="gone?")
    assert await browser.heard_nothing()


async def test_leaving_a_room_one_is_not_in_is_answered_but_not_told(
    open_browser, alice, bob, lobby
):
    witness = await open_browser(alice, lobby)
    browser = await open_browser(bob)
    assert await browser.answer("leave", lobby.pk) == {"leave": str(lobby.pk)}
    assert await witness.heard_nothing()


async def test_a_room_that_was_deleted_can_be_left(open_browser, bob, lobby):
    browser = await open_browser(bob, lobby)
    room_id = lobby.pk
    await lobby.adelete()
    assert await browser.answer("leave", room_id) == {"leave": str(room_id)}


async def test_a_disconnect_leaves_all_rooms_with_a_notice(open_browser, alice, bob, lobby, den):
    browser = await open_browser(alice, lobby, den)
    witness = await open_browser(alice, lobby, den)
    await browser.disconnect()
    heard = [await witness.frame() for _ in range(2)]
    assert heard == [line(LEAVE, lobby, alice), line(LEAVE, den, alice)]


# Send


async def test_a_line_reaches_all_in_the_room_its_sender_included(open_browser, alice, bob, lobby):
    listener = await open_browser(alice, lobby)
    sender = await open_browser(bob, lobby)
    await listener.frame()
    said = line(MESSAGE, lobby, bob, "Hello")
    assert await sender.answer("send", lobby.pk, message="Hello") == said
    assert await listener.frame() == said


async def test_a_line_reaches_nobody_in_other_rooms(open_browser, alice, lobby, den):
    elsewhere = await open_browser(alice, den)
    sender = await open_browser(alice, lobby)
    await sender.answer("send", lobby.pk, message="Hello")
    assert await elsewhere.heard_nothing()


async def test_one_socket_carries_several_rooms(open_browser, alice, lobby, den):
    browser = await open_browser(alice, lobby, den)
    for room in (lobby, den):
        assert await browser.answer("send", room.pk, message="x") == line(MESSAGE, room, alice, "x")


async def test_a_line_to_a_room_one_is_not_in_is_refused(open_browser, alice, bob, lobby):
    witness = await open_browser(alice, lobby)
    browser = await open_browser(bob)
    assert await browser.answer("send", lobby.pk, message="x") == {"error": "ROOM_ACCESS_DENIED"}
    assert await witness.heard_nothing()


@pytest.mark.parametrize("text", ["<b>x</b>", "\0", "\ud800", "日本語 🙂", " padded ", "x" * 2000])
async def test_a_line_arrives_as_it_was_typed(open_browser, bob, lobby, text):
    browser = await open_browser(bob, lobby)
    assert (await browser.answer("send", lobby.pk, message=text))["message"] == text


# Notices


async def test_notices_can_be_switched_off(open_browser, settings, alice, bob, lobby):
    settings.NOTIFY_USERS_ON_ENTER_OR_LEAVE_ROOMS = False
    witness = await open_browser(alice, lobby)
    browser = await open_browser(bob, lobby)
    await browser.answer("leave", lobby.pk)
    await browser.disconnect()
    assert await witness.heard_nothing()


async def test_the_numbers_of_the_types_are_settings(open_browser, settings, bob, lobby):
    settings.MSG_TYPE_MESSAGE = 7
    browser = await open_browser(bob, lobby)
    assert (await browser.answer("send", lobby.pk, message="x"))["msg_type"] == 7


# Anything wrong

WRONG = {
    "{": "FRAME_NOT_JSON",
    " ": "FRAME_NOT_JSON",
    "[" * 20_000: "FRAME_NOT_JSON",
    "1" * 20_000: "FRAME_NOT_JSON",
    "[]": "FRAME_NOT_OBJECT",
    "null": "FRAME_NOT_OBJECT",
    '"join"': "FRAME_NOT_OBJECT",
    "{}": "COMMAND_UNKNOWN",
    '{"command": "dance", "room": 1}': "COMMAND_UNKNOWN",
    '{"command": ["join"], "room": 1}': "COMMAND_UNKNOWN",
    '{"command": "join"}': "ROOM_INVALID",
    '{"command": "join", "room": true}': "ROOM_INVALID",
    '{"command": "join", "room": 1.0}': "ROOM_INVALID",
    '{"command": "join", "room": NaN}': "ROOM_INVALID",
    '{"command": "join", "room": {}}': "ROOM_INVALID",
    '{"command": "join", "room": 9223372036854775808}': "ROOM_INVALID",
    '{"command": "join", "room": 9223372036854775807}': "ROOM_INVALID",  # well-formed, not there
    '{"command": "send", "room": 1}': "MESSAGE_NOT_TEXT",
    '{"command": "send", "room": 1, "message": {"a": 1}}': "MESSAGE_NOT_TEXT",
    '{"command": "send", "room": 1, "message": " \\n"}': "MESSAGE_EMPTY",
    json.dumps({"command": "send", "room": 1, "message": "x" * 2001}): "MESSAGE_TOO_LONG",
    json.dumps({"command": "send", "room": 1, "message": "x" * 1_000_000}): "FRAME_TOO_LONG",
}


async def test_no_wrong_frame_ends_the_socket(open_browser, bob, lobby):
    browser = await open_browser(bob, lobby)
    for text, code in WRONG.items():
        await browser.send(text)
        assert await browser.frame() == {"error": code}, text[:60]
    await browser.send_input({"type": "websocket.receive", "bytes": b"{}"})
    assert await browser.frame() == {"error": "FRAME_NOT_TEXT"}
    await browser.send_input({"type": "websocket.receive", "text": "", "bytes": None})
    assert await browser.frame() == {"error": "FRAME_NOT_JSON"}
    assert (await browser.answer("send", lobby.pk, message="still here"))["msg_type"] == MESSAGE


async def test_who_is_too_fast_is_told_so_and_may_go_on_later(
    open_browser, settings, monkeypatch, bob, lobby
):
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("chat.consumers.time", clock)
    settings.CHAT_RATE, settings.CHAT_BURST = 20.0, 2
    now = 100.0
    browser = await open_browser(bob, lobby)
    assert (await browser.answer("send", lobby.pk, message="second"))["msg_type"] == MESSAGE
    answer = await browser.answer("send", lobby.pk, message="third")
    assert answer == {"error": "TOO_FAST"}
    now += 1
    answer = await browser.answer("send", lobby.pk, message="patient")
    assert answer == line(MESSAGE, lobby, bob, "patient")


async def test_the_rate_is_each_socket_s_own(open_browser, settings, alice, bob, lobby):
    settings.CHAT_RATE, settings.CHAT_BURST = 0.001, 1
    for user in (alice, bob):
        await open_browser(user, lobby)


async def test_a_database_that_fails_is_an_error_and_the_socket_lives(
    open_browser, monkeypatch, bob, lobby
):
    browser = await open_browser(bob)

    def fail(*args):
        raise OperationalError("the server closed the connection")

    with monkeypatch.context() as patch:
        patch.setattr("chat.consumers.room_for", fail)
        assert await browser.answer("join", lobby.pk) == {"error": "TRY_AGAIN"}
    assert await browser.answer("send", lobby.pk, message="x") == {"error": "ROOM_ACCESS_DENIED"}
    assert "join" in await browser.answer("join", lobby.pk)
