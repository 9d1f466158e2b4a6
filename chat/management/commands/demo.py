"""python manage.py demo: rooms and accounts for a first look. It can be run any number of times.

Rooms are created only if there are none at all; accounts (`--accounts`) only if they are missing,
with generated passwords. `--passwords FILE` stores these, so that a later run can show them again,
as long as they are still valid.
"""

import json
import os
import secrets
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import check_password
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from chat.models import Room

ROOMS = (("Lobby", False), ("Help desk", False), ("Tea kitchen", False), ("Staff room", True))
# Name, and True if the account is staff and superuser.
ACCOUNTS = (("alice", True), ("bob", False))
PASSWORD_BYTES = 9  # random bytes, 12 characters: easy to type, hard to guess


class Command(BaseCommand):
    """Create what is missing, and print it."""

    help = "Creates demo rooms, and with --accounts two demo accounts, unless they exist."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--accounts", action="store_true", help="also create alice and bob")
        parser.add_argument(
            "--passwords",
            type=Path,
            metavar="FILE",
            help="store generated passwords in FILE (JSON, readable by its owner only)",
        )
        parser.add_argument("--migrate", action="store_true", help="run `migrate` first")
        parser.add_argument("--json", action="store_true", help="print JSON instead of text")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["migrate"]:
            call_command("migrate", verbosity=0)
        made = make_rooms()
        accounts = make_accounts(options["passwords"]) if options["accounts"] else []
        if options["json"]:
            self.stdout.write(json.dumps({"rooms_made": made, "accounts": accounts}))
            return
        if made:
            self.stdout.write(f"Created the rooms {', '.join(made)}.")
        for account in accounts:
            self.stdout.write(describe(account))


def make_rooms() -> list[str]:
    """Create the rooms if there are none; return the titles of those that were created."""
    with transaction.atomic():
        if Room.objects.exists():
            return []
        rooms = [Room(title=title, staff_only=staff_only) for title, staff_only in ROOMS]
        return [room.title for room in Room.objects.bulk_create(rooms)]


def make_accounts(file: Path | None) -> list[dict[str, Any]]:
    """Create missing accounts; return all, with the password, or None if it is not known."""
    known = read_passwords(file)
    return [make_account(name, staff, known, file) for name, staff in ACCOUNTS]


def make_account(
    name: str, staff: bool, known: dict[str, str], file: Path | None
) -> dict[str, Any]:
    model = get_user_model()
    user = model.objects.filter(username=name).first()
    made = user is None
    if user is None:
        known[name] = secrets.token_urlsafe(PASSWORD_BYTES)
        write_passwords(file, known)  # first, or an account without a known password might be left
        make = model.objects.create_superuser if staff else model.objects.create_user
        user = make(username=name, password=known[name])
    password = known.get(name)
    valid = made or (
        user.is_active and password is not None and check_password(password, user.password)
    )
    return {
        "username": name,
        "password": password if valid else None,
        "staff": user.is_staff,
        "made": made,
    }


def describe(account: dict[str, Any]) -> str:
    kind = "staff" if account["staff"] else "user"
    password = account["password"]
    secret = f"password {password}" if password else "password unknown"
    return f"{account['username']} ({kind}), {secret}"


def read_passwords(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        known = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read the passwords in {file}: {error}; remove it") from error
    if not isinstance(known, dict):
        raise CommandError(f"expected a JSON object of passwords in {file}; remove the file")
    return known


def write_passwords(file: Path | None, known: dict[str, str]) -> None:
    """Replace the file atomically; only its owner can ever read it."""
    if file is None:
        return
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as stream:
            json.dump(known, stream)
        draft.replace(file)
    except OSError as error:
        raise CommandError(f"cannot store the passwords in {file}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
