"""python manage.py demo: a first start, and every start after it."""

import json

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.core.management import CommandError, call_command

from chat.models import Room


@pytest.fixture
def demo(capsys, db):
    def run(*arguments):
        call_command("demo", *map(str, arguments))
        return capsys.readouterr().out

    return run


@pytest.fixture
def accounts(demo, tmp_path):
    file = tmp_path / "passwords.json"

    def run():
        answer = json.loads(demo("--accounts", "--json", "--passwords", file))
        return {account["username"]: account for account in answer["accounts"]}

    return run


def test_rooms_are_made_one_of_them_staff_only(demo):
    assert "Lobby" in demo()
    assert Room.objects.filter(staff_only=True).count() == 1
    assert Room.objects.filter(staff_only=False).count() >= 2


def test_it_can_migrate_first(demo):
    call_command("migrate", "chat", "zero", verbosity=0)
    assert "Lobby" in demo("--migrate")


def test_rooms_are_made_only_where_there_are_none(demo, lobby):
    assert demo() == ""
    assert Room.objects.get() == lobby


def test_accounts_are_made_only_on_request(demo):
    demo()
    assert not get_user_model().objects.exists()


def test_the_accounts_are_a_staff_superuser_and_an_ordinary_user(accounts):
    made = accounts()
    assert {name: account["staff"] for name, account in made.items()} == {
        "alice": True,
        "bob": False,
    }
    assert get_user_model().objects.get(is_superuser=True).username == "alice"
    for name, account in made.items():
        assert authenticate(username=name, password=account["password"])


def test_generated_passwords_differ(accounts):
    assert len({account["password"] for account in accounts().values()}) == 2


def test_a_later_start_shows_the_same_passwords(accounts):
    first, second = accounts(), accounts()
    assert all(account["made"] for account in first.values())
    assert not any(account["made"] for account in second.values())
    for name in first:
        assert first[name]["password"] == second[name]["password"]


def test_a_password_changed_since_is_not_shown(accounts):
    accounts()
    bob = get_user_model().objects.get(username="bob")
    bob.set_password("my own")
    bob.save()
    later = accounts()
    assert later["bob"]["password"] is None
    assert later["alice"]["password"]


def test_an_account_of_that_name_which_was_there_before_is_left_alone(accounts, bob):
    assert accounts()["bob"]["password"] is None
    bob.refresh_from_db()
    assert bob.check_password("a long one")


def test_a_deactivated_account_is_not_shown_as_usable(accounts):
    accounts()
    get_user_model().objects.filter(username="bob").update(is_active=False)
    assert accounts()["bob"]["password"] is None


def test_an_account_deleted_since_is_made_again(accounts):
    first = accounts()
    get_user_model().objects.get(username="bob").delete()
    again = accounts()["bob"]
    assert again["made"]
    assert again["password"] not in (None, first["bob"]["password"])


def test_the_file_of_passwords_is_its_owner_s_only_and_no_draft_is_left(accounts, tmp_path):
    accounts()
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_a_file_passwords_are_shown_once(demo):
    assert "password unknown" not in demo("--accounts")
    assert demo("--accounts").count("password unknown") == 2


def test_a_broken_file_is_said_so(demo, tmp_path):
    file = tmp_path / "passwords.json"
    for content in ("{", "[]"):
        file.write_text(content)
        with pytest.raises(CommandError, match="remove"):
            demo("--accounts", "--passwords", file)
    assert not get_user_model().objects.exists()


def test_an_account_is_not_made_when_its_password_cannot_be_kept(demo, tmp_path):
    with pytest.raises(CommandError, match="cannot store"):
        demo("--accounts", "--passwords", tmp_path / "nowhere" / "passwords.json")
    assert not get_user_model().objects.exists()
