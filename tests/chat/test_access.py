"""Staff-only rooms and ended sessions: the server refuses, whatever was allowed before."""

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.test import Client, TestCase
from django.urls import reverse

from chat.models import Room

MESSAGE, ENTER, LEAVE = 0, 4, 5
DENIED = {"error": "ROOM_ACCESS_DENIED"}


@pytest.fixture
def carol(make_user):
    return make_user("carol", is_staff=True)


async def demote(user):
    await get_user_model().objects.filter(pk=user.pk).aupdate(is_staff=False)


async def assert_out_of(browser, *rooms):
    for room_id in rooms:
        assert await browser.frame() == {"leave": str(room_id)}
    assert await browser.heard_nothing()


# Staff only


async def test_staff_may_enter_a_staff_room(open_browser, alice, den):
    await open_browser(alice, den)


async def test_others_are_refused_a_staff_room_and_are_not_in_it(open_browser, alice, bob, den):
    witness = await open_browser(alice, den)
    browser = await open_browser(bob)
    assert await browser.answer("join", den.pk) == DENIED
    assert await browser.answer("send", den.pk, message="x") == DENIED
    assert (await witness.answer("send", den.pk, message="secret"))["message"] == "secret"
    assert await browser.heard_nothing()


async def test_who_is_not_staff_any_more_is_refused_at_send_and_put_out(
    open_browser, alice, carol, den, lobby
):
    browser = await open_browser(carol, den, lobby)
    witness = await open_browser(alice, den)
    await browser.frame()
    await demote(carol)
    assert await browser.answer("send", den.pk, message="x") == DENIED
    await assert_out_of(browser, den.pk)
    assert (await witness.frame())["msg_type"] == LEAVE
    assert await witness.heard_nothing()
    assert (await browser.answer("send", lobby.pk, message="x"))["msg_type"] == MESSAGE


async def test_who_is_not_staff_any_more_is_refused_a_second_join(open_browser, carol, den):
    browser = await open_browser(carol, den)
    await demote(carol)
    assert await browser.answer("join", den.pk) == DENIED
    await assert_out_of(browser, den.pk)


async def test_a_room_that_becomes_staff_only_puts_others_out_at_send(open_browser, bob, lobby):
    browser = await open_browser(bob, lobby)
    await Room.objects.filter(pk=lobby.pk).aupdate(staff_only=True)
    assert await browser.answer("send", lobby.pk, message="x") == DENIED
    await assert_out_of(browser, lobby.pk)


async def test_who_is_not_staff_any_more_hears_no_line_of_a_staff_room(
    open_browser, settings, alice, carol, den
):
    settings.CHAT_ACCESS_SECONDS = 0
    listener = await open_browser(carol, den)
    sender = await open_browser(alice, den)
    assert (await listener.frame())["msg_type"] == ENTER
    await demote(carol)
    await sender.answer("send", den.pk, message="secret")
    assert await listener.frame() == DENIED
    await assert_out_of(listener, den.pk)


async def test_a_listener_of_a_room_that_became_staff_only_hears_nothing_of_it(
    open_browser, settings, alice, bob, lobby
):
    settings.CHAT_ACCESS_SECONDS = 0
    listener = await open_browser(bob, lobby)
    sender = await open_browser(alice, lobby)
    await listener.frame()
    await Room.objects.filter(pk=lobby.pk).aupdate(staff_only=True)
    await sender.answer("send", lobby.pk, message="secret")
    assert await listener.frame() == DENIED
    await assert_out_of(listener, lobby.pk)


async def test_listening_asks_the_database_in_staff_rooms_only_and_not_every_time(
    open_browser, monkeypatch, alice, carol, den, lobby
):
    listener = await open_browser(carol, den, lobby)
    sender = await open_browser(alice, den, lobby)
    for _ in range(2):
        await listener.frame()
    asked = []
    monkeypatch.setattr("chat.consumers.ChatConsumer.recheck", lambda *args: asked.append(args))
    await sender.answer("send", lobby.pk, message="x")
    await listener.frame()
    assert asked == []
    await sender.answer("send", den.pk, message="x")
    await listener.frame()
    assert [room_id for _, room_id, _ in asked] == [den.pk] * 2  # sender and listener


# A session that ended


def log_out(browser, user):
    browser.login.post(reverse("logout"))


def change_password(browser, user):
    user.set_password("another long one")
    user.save()


def deactivate(browser, user):
    user.is_active = False
    user.save()


def delete(browser, user):
    user.delete()


@pytest.mark.parametrize("end", [log_out, change_password, deactivate, delete])
@pytest.mark.parametrize("command", ["join", "send"])
async def test_who_could_not_load_a_page_now_has_to_log_in_and_is_out_of_all_rooms(
    open_browser, alice, bob, lobby, den, end, command
):
    browser = await open_browser(alice, lobby, den)
    witness = await open_browser(bob, lobby)
    await browser.frame()
    await sync_to_async(end)(browser, alice)
    answer = await browser.answer(command, lobby.pk, message="x")
    assert answer == {"error": "USER_HAS_TO_LOGIN"}
    await assert_out_of(browser, lobby.pk, den.pk)
    assert (await witness.frame())["msg_type"] == LEAVE
    assert await browser.answer("join", lobby.pk) == {"error": "USER_HAS_TO_LOGIN"}


async def test_a_room_deleted_meanwhile_is_invalid_and_left(open_browser, bob, lobby):
    browser = await open_browser(bob, lobby)
    room_id = lobby.pk
    await lobby.adelete()
    assert await browser.answer("send", room_id, message="x") == {"error": "ROOM_INVALID"}
    await assert_out_of(browser, room_id)


# The admin reaches open sockets at once


@pytest.fixture
def admin_post(alice):
    client = Client()
    client.force_login(alice)

    def post(address, values):
        with TestCase.captureOnCommitCallbacks(execute=True):
            answer = client.post(address, values)
        assert answer.status_code == 302, answer.content

    return sync_to_async(post)


def user_form(user, **changes):
    form = {"username": user.username, "date_joined_0": "2024-01-01", "date_joined_1": "00:00:00"}
    return form | {"is_active": "on", "is_staff": "on"} | changes


async def test_the_admin_takes_staff_status_away_and_the_listener_is_out(
    open_browser, admin_post, carol, den, lobby
):
    browser = await open_browser(carol, den, lobby)
    form = user_form(carol)
    del form["is_staff"]
    await admin_post(reverse("admin:auth_user_change", args=[carol.pk]), form)
    assert await browser.frame() == DENIED
    await assert_out_of(browser, den.pk)


async def test_the_admin_deletes_a_user_and_their_page_is_told(
    open_browser, admin_post, bob, lobby
):
    browser = await open_browser(bob, lobby)
    await admin_post(reverse("admin:auth_user_delete", args=[bob.pk]), {"post": "yes"})
    assert await browser.frame() == {"error": "USER_HAS_TO_LOGIN"}


async def test_a_change_of_one_user_does_not_trouble_others(
    open_browser, admin_post, monkeypatch, alice, carol, den
):
    browser = await open_browser(alice, den)
    asked = []
    monkeypatch.setattr("chat.consumers.ChatConsumer.recheck", lambda *args: asked.append(args))
    await admin_post(reverse("admin:auth_user_change", args=[carol.pk]), user_form(carol))
    assert await browser.heard_nothing()
    assert asked == []


async def test_the_admin_makes_a_room_staff_only_and_others_are_out(
    open_browser, admin_post, alice, bob, lobby
):
    staff = await open_browser(alice, lobby)
    browser = await open_browser(bob, lobby)
    await staff.frame()
    form = {"title": "Lobby", "staff_only": "on"}
    await admin_post(reverse("admin:chat_room_change", args=[lobby.pk]), form)
    assert await browser.frame() == DENIED
    await assert_out_of(browser, lobby.pk)
    assert (await staff.frame())["msg_type"] == LEAVE


@pytest.mark.parametrize("batch", [False, True])
async def test_the_admin_deletes_a_room_and_all_are_out(
    open_browser, admin_post, bob, lobby, batch
):
    browser = await open_browser(bob, lobby)
    room_id = lobby.pk
    if batch:
        form = {"action": "delete_selected", "_selected_action": [room_id], "post": "yes"}
        await admin_post(reverse("admin:chat_room_changelist"), form)
    else:
        await admin_post(reverse("admin:chat_room_delete", args=[room_id]), {"post": "yes"})
    assert await browser.frame() == {"error": "ROOM_INVALID"}
    await assert_out_of(browser, room_id)
