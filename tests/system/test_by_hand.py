"""By hand, as docs/deploying.md does it: each part as a separate process, with nothing configured.

A state directory of this test's own is a checkout in which nothing has been started before.
"""

import contextlib
import re
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from tests.system.children import DEADLINE, ROOT, family
from tests.system.people import ROOM, Browser, Page, came, said
from thyme import services
from thyme.services.engines import Account, data_home

PASSWORD = "typed by hand"
MIGRATE = "manage.py migrate"
CREATESUPERUSER = "manage.py createsuperuser"
WORKER = "manage.py runworker2"
RELAY = "-m thyme multichat.relay:application"
WHOLE = "-m thyme multichat.asgi:application"


def test_the_commands_tried_here_are_those_of_the_document():
    document = (ROOT / "docs" / "deploying.md").read_text()
    section = document.split("## By hand, as separate processes\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)
    commands = re.findall(r"^python (.*?) *(?:[&#].*)?$", "".join(blocks), re.M)
    assert commands == [MIGRATE, CREATESUPERUSER, WORKER, RELAY, WHOLE]


@pytest.fixture(scope="module")
def state():
    """A state directory; the data of its servers are removed, wherever they are."""
    directory = Path(tempfile.mkdtemp(prefix="thyme-test-")).resolve()
    state = directory / "state"
    yield state
    services.stop_unused(state)
    shutil.rmtree(data_home(state, Account.unprivileged()), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def run(state):
    """run(command): `python command`, which knows the state directory and nothing else."""
    with family() as start:
        yield lambda command, **more: start(
            command, *command.split(), THYME_STATE=str(state), **more
        )
    assert at_rest(state), "embedded servers did not end with their last user"


def at_rest(state):
    """Whether no embedded server runs any more, as soon as that is so: keepers clear their file."""
    deadline = time.monotonic() + DEADLINE
    while any(file.read_text() for file in state.glob("*.keeper")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def urls(run, state):
    """The addresses of a server with a relay and of one with everything, after all five steps."""
    migrated = run(MIGRATE)
    assert "Applying chat.0001_initial... OK" in migrated.output()
    assert at_rest(state)  # nobody used them any more; the account finds the data again
    account = {"DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    run(f"{CREATESUPERUSER} --noinput --username ann --email a@b.example", **account).output()
    children = [run(WORKER), run(f"{RELAY} --port 0"), run(f"{WHOLE} --port 0")]
    firsts = ["Worker ", "Thyme listens on ", "Thyme listens on "]
    return [child.line(first) for child, first in zip(children, firsts, strict=True)][1:]


@pytest.fixture(scope="module")
def ann(urls):
    """Ann, logged in at the first address, who has made a room in the admin."""
    browser = Browser()
    browser.log_in(urls[0], "ann", PASSWORD)
    response, _ = browser.post(f"{urls[0]}/admin/chat/room/add/", title="By hand")
    assert response.url == f"{urls[0]}/admin/chat/room/"
    return browser


def test_the_first_account_makes_the_first_room_in_the_admin(ann, urls):
    for url in urls:
        assert len(ROOM.findall(ann.get(f"{url}/")[1])) == 1


def test_who_is_at_a_relay_and_who_is_at_the_whole_talk_to_each_other(ann, urls):
    room = int(ROOM.findall(ann.get(f"{urls[0]}/")[1])[0])
    with contextlib.ExitStack() as stack:
        here, there = (Page(url, ann.cookie) for url in urls)
        stack.callback(there.close)
        stack.callback(here.close)
        here.ask("join", room)
        there.ask("join", room)
        assert here.hear() == came(room, "ann")
        there.say("send", room, message="It works.")
        assert here.hear() == there.hear() == said(room, "ann", "It works.")


@pytest.mark.parametrize("command", [RELAY, WHOLE])
def test_a_port_in_use_gets_one_clear_sentence(run, urls, command):
    port = urls[0].rpartition(":")[2]
    code, told = run(f"{command} --port {port}").exit()
    assert code == 1
    assert re.fullmatch(rf"thyme: cannot listen on 127.0.0.1 port {port}: .*--port", told)
