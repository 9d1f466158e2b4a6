"""`make chat ARGS="--workers 3"`: two people in real browsers, and every worker killed in turn."""

from __future__ import annotations

import psutil
import pytest
from selenium.webdriver.common.keys import Keys

from tests.system.test_browser import Window
from tests.thyme.test_run import Run, accounts, temporary_state, wait_until

WORKERS = 3
WATCH = """
window.seen = [];
const state = document.getElementById("state");
new MutationObserver(() => window.seen.push(state.dataset.state))
    .observe(state, {attributes: true, attributeFilter: ["data-state"]});
"""


@pytest.fixture
def chat():
    with temporary_state() as state:
        run = Run(state, "--port", "0", "--workers", str(WORKERS))
        try:
            run.url = run.address()
            run.accounts = accounts(run.rest())
            yield run
        finally:
            run.close()


@pytest.fixture
def people(chat):
    """Alice and Bob, each in a browser, in the first room."""
    opened = []
    try:
        for name in ("alice", "bob"):
            window = Window(name)
            opened.append(window)
            window.driver.get(f"{chat.url}/")
            window.one("input[name=username]").send_keys(name)
            window.one("input[name=password]").send_keys(chat.accounts[name], Keys.ENTER)
            window.connected()
            room = window.one("[data-room]").get_attribute("data-room")
            window.join(room)
            window.driver.execute_script(WATCH)
        yield *opened, room
    finally:
        for window in opened:
            window.close()


def oldest(chat) -> psutil.Process:
    """The worker that has run for longest."""
    children = psutil.Process(chat.process.pid).children()
    workers = [child for child in children if "runworker2" in child.cmdline()]
    return min(workers, key=psutil.Process.create_time)


def said_again(chat) -> int:
    """How many workers have been started again, and take connections."""
    return chat.said().count("takes connections")


def test_workers_are_killed_while_two_people_chat_and_nobody_notices(chat, people):
    alice, bob, room = people
    said = []
    bob.one(f'[data-panel="{room}"] input').send_keys("half a line")

    def talk(*hearers):
        said.append(f"Line {len(said)}")
        alice.say(room, said[-1])
        for window in hearers:
            window.sees(f'[data-panel="{room}"] .text', said[-1])

    talk(alice, bob)
    for number in range(1, WORKERS + 1):
        oldest(chat).kill()
        talk(alice)  # Bob may be on his way to another worker
        assert wait_until(lambda number=number: said_again(chat) == number)
        talk(alice, bob)
    bob.one(f'[data-panel="{room}"] form button').click()
    for window in (alice, bob):
        window.sees(f'[data-panel="{room}"] .text', "half a line")
        assert window.driver.execute_script("return window.seen") == []
        assert window.connected().text == "Connected"
        assert not window.all("#notice[data-code]")
    lines = [("message", "alice", text) for text in said] + [("message", "bob", "half a line")]
    assert alice.lines(room) == [("enter", "bob", "joined"), *lines]
    heard = bob.lines(room)
    assert [line for line in lines if line in heard] == heard  # in order, none of them twice
