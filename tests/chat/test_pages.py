"""The page, login and logout, the admin: what a browser gets over HTTP."""

import re

import pytest
from django.apps import apps
from django.test import AsyncClient, Client
from django.urls import reverse

from chat.models import Room


@pytest.fixture
def page(client, bob):
    client.force_login(bob)
    return lambda: client.get("/").content.decode()


def test_the_page_is_behind_login(client, db):
    assert client.get("/").headers["Location"] == "/accounts/login/?next=/"


def test_login_leads_to_the_page(client, bob):
    assert 'name="username"' in client.get("/accounts/login/").content.decode()
    answer = client.post("/accounts/login/", {"username": "bob", "password": "a long one"})
    assert answer.headers["Location"] == "/"
    assert client.get("/").status_code == 200


def test_a_wrong_password_is_said_so(client, bob):
    answer = client.post("/accounts/login/", {"username": "bob", "password": "guess"})
    assert 'role="alert"' in answer.content.decode()


def test_logout_is_by_post_only(client, bob):
    client.force_login(bob)
    assert client.get("/accounts/logout/").status_code == 405
    assert client.get("/").status_code == 200
    assert client.post("/accounts/logout/").status_code == 302
    assert client.get("/").status_code == 302


def test_login_and_logout_of_other_sites_are_refused(bob):
    client = Client(enforce_csrf_checks=True)
    client.force_login(bob)
    assert client.post("/accounts/logout/").status_code == 403


def test_rooms_are_listed_by_title_the_staff_only_ones_marked(page, lobby, den):
    Room.objects.create(title="Attic")
    buttons = re.findall(r'data-room="(\d+)".*?</button>', page())
    titles = [Room.objects.get(pk=room_id).title for room_id in buttons]
    assert titles == ["Attic", "Den", "Lobby"]
    marked = re.findall(r'data-room="(\d+)"[^\n]*staff only', page())
    assert marked == [str(den.pk)]


def test_a_title_is_never_html(page):
    Room.objects.create(title="<script>alert(1)</script>")
    assert "<script>alert" not in page()
    assert "&lt;script&gt;alert" in page()


def test_an_id_of_many_digits_is_not_grouped(page, settings):
    settings.USE_THOUSAND_SEPARATOR = True
    Room.objects.create(pk=1234567, title="Far away")
    assert 'data-room="1234567"' in page()


def test_no_rooms_is_said_so(page):
    assert "There are no rooms yet." in page()


def test_the_page_has_no_script_or_style_of_its_own_and_the_policy_allows_none(page, client, lobby):
    html = page()
    assert re.findall(r"<script(?![^>]*\bsrc=)", html) == []
    assert not re.search(r"<style|\sstyle=|\son\w+=", html)
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_the_page_names_the_types_that_it_shows(page, settings):
    settings.MESSAGE_TYPES_LIST = [0, 4]
    assert 'data-types="0:message 4:enter "' in page()


def test_the_script_never_makes_html_of_text():
    source = (apps.get_app_config("chat").path + "/static/chat/chat.js").replace("\\", "/")
    with open(source) as file:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", file.read())


def test_nothing_but_rooms_is_stored():
    assert list(apps.get_app_config("chat").get_models()) == [Room]


# The admin


@pytest.mark.parametrize("name", ["chat_room_changelist", "chat_room_add", "auth_user_changelist"])
def test_the_admin_has_rooms_and_users(client, alice, lobby, name):
    client.force_login(alice)
    assert client.get(reverse(f"admin:{name}")).status_code == 200


def test_the_admin_shows_id_title_and_staff_only(client, alice, den):
    client.force_login(alice)
    html = client.get(reverse("admin:chat_room_changelist")).content.decode()
    assert all(f"field-{name}" in html for name in ("id", "title", "staff_only"))


def test_the_admin_makes_rooms(client, alice):
    client.force_login(alice)
    client.post(reverse("admin:chat_room_add"), {"title": "New", "staff_only": "on"})
    assert Room.objects.get().staff_only


def test_the_admin_is_not_for_others(client, bob):
    client.force_login(bob)
    assert client.get(reverse("admin:chat_room_changelist")).status_code == 302


async def test_the_page_works_in_django_s_asynchronous_form(bob, lobby):
    client = AsyncClient()
    await client.aforce_login(bob)
    answer = await client.get("/")
    assert b"Lobby" in answer.content
    assert "Content-Security-Policy" in answer.headers
