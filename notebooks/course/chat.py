"""The finished multichat for the sprig to carry: its Redis and Postgres, three people, two rooms.

Alice is staff, Bob and Carol are not; the Office is for staff only. Everything is in a place of
its own (scratch.py), and gone after `end()`.
"""

from __future__ import annotations

import json
import subprocess
import sys

from course import scratch
from course.visitors import Visitor
from thyme import services

PASSWORD = "a long one for all"  # noqa: S105 - of accounts that live for a minute
NAME = "multichat"  # of database and role
NAMES = ("alice", "bob", "carol")
FILL = f"""
import json
from django.contrib import auth
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from chat.models import Room
call_command("migrate", verbosity=0)
password, cookies = make_password({PASSWORD!r}), {{}}
for name in {NAMES}:
    user = User.objects.create(username=name, password=password, is_staff=name == "alice")
    session = SessionStore()
    session[auth.SESSION_KEY] = str(user.pk)
    session[auth.BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[auth.HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    cookies[name] = f"sessionid={{session.session_key}}"
rooms = [Room.objects.create(title=title, staff_only=title == "Office")
         for title in ("Garden", "Office")]
print(json.dumps([cookies, *[room.pk for room in rooms]]))
"""


class Chat:
    """`environment`: for the processes of the chat. `garden`, `office`: the ids of the rooms.

    `cookies`: of people who have logged in, by name; the password of all is `PASSWORD`.
    """

    def __init__(self) -> None:
        self.state = scratch.new_state()
        where = {
            "REDIS_URL": services.redis(log=_ignore, state=self.state),
            "DATABASE_URL": services.postgres(
                database=NAME, role=NAME, log=_ignore, state=self.state
            ),
            "DJANGO_LOG_LEVEL": "ERROR",
        }
        environment = scratch.environment(self.state, **where)
        filled = subprocess.run(  # noqa: S603 - the program is above
            [sys.executable, "manage.py", "shell", "-v0", "-c", FILL],
            cwd=scratch.ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        self.cookies, self.garden, self.office = json.loads(filled.stdout.splitlines()[-1])
        settings = {"DJANGO_SETTINGS_MODULE": "sprig.multichat_settings"}
        self.environment = environment | settings  # the same secret key: sessions hold

    def visit(self, url: str, name: str) -> Visitor:
        """Open the page's WebSocket, as somebody who has logged in already."""
        return Visitor(url, self.cookies[name])

    def end(self) -> None:
        """Stop the services and remove all that they have kept."""
        services.stop_unused(self.state)
        scratch.remove(self.state)


def _ignore(line: str) -> None:
    """No-op: what the services log while they start is of no interest to a chapter."""


def conversation(chat: Chat, first: str, second: str) -> dict[str, object]:
    """Let two people talk, at two servers or one, and a third one try the staff room.

    Return what they have heard, by what it shows.
    """
    alice, bob, carol = (
        chat.visit(url, name)
        for url, name in ((first, "alice"), (second, "bob"), (second, "carol"))
    )
    try:
        alice.ask("join", chat.garden)
        bob.ask("join", chat.garden)
        came = alice.hear()
        bob.say("send", chat.garden, message="Tea?")
        heard = [page.hear().get("message") for page in (alice, bob)]
        alice.ask("join", chat.office)
        refused = [carol.ask(command, chat.office, message="?") for command in ("join", "send")]
        alice.say("send", chat.office, message="Psst.")
        private = alice.hear().get("message")
        bob.close()
        left = alice.hear()
    finally:
        for page in (alice, bob, carol):
            page.close()
    return {
        "Alice sees who comes and goes": [(n["msg_type"], n["username"]) for n in (came, left)],
        "both hear a line": heard,
        "staff hear each other": private,
        "Carol is refused": [answer["error"] for answer in refused],
    }


EXPECTED = {
    "Alice sees who comes and goes": [(4, "bob"), (5, "bob")],
    "both hear a line": ["Tea?", "Tea?"],
    "staff hear each other": "Psst.",
    "Carol is refused": ["ROOM_ACCESS_DENIED"] * 2,
}
