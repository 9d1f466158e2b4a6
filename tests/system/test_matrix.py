"""Any server, any worker, any carrier: the same chat in each of sixteen cells.

    thyme ─────┐                    ┌── runworker2                  (gevent)
    Daphne ────┼── Redis, or TCP ───┤
    Uvicorn ───┤   (our hub)        └── runworker2 --loop asyncio
    Hypercorn ─┘

Alice is on the cell's server and Bob on another one, so lines cross servers in every cell. The
table in docs/deploying.md says which cells hold; `MATRIX=write pytest tests/system/test_matrix.py`
puts there what this run has shown, and without it the last test compares.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import websocket

from tests.conftest import running_redis
from tests.system.children import ROOT, family
from tests.system.conftest import PASSWORD
from tests.system.people import Browser, Page, came, left, said

SERVERS = {
    "thyme": ("thyme", "multichat.relay:application", "--bind", "fd://{}"),
    "Daphne": ("daphne", "--fd", "{}", "multichat.relay_asgi:application"),
    "Uvicorn": ("uvicorn", "--fd", "{}", "multichat.relay_asgi:application"),
    "Hypercorn": ("hypercorn", "--bind", "fd://{}", "multichat.relay_asgi:application"),
}
NEXT = dict(zip(SERVERS, [*list(SERVERS)[1:], "thyme"], strict=True))  # where Bob is
WORKERS = {"gevent": (), "asyncio": ("--loop", "asyncio")}
CARRIERS = ("Redis", "TCP")
DOCUMENT = ROOT / "docs" / "deploying.md"
PLACE = re.compile(r"(<!-- matrix[^>]*-->\n).*?(<!-- end of matrix -->)", re.DOTALL)
held: set[tuple[str, str, str]] = set()


@pytest.fixture(scope="module", params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """What carries, and its URL."""
    if request.param == "Redis":
        with running_redis("valkey") as server:
            yield request.param, server.url
    else:
        with family() as start:
            hub = start("hub", "-m", "gredis", "--port", "0")
            yield request.param, hub.line("The hub listens on ")


@pytest.fixture(scope="module")
def places(carrier: tuple[str, str], database: str) -> Iterator[dict[str, str]]:
    """Where each server is. It inherits its socket, so people may knock before it is ready."""
    _, url = carrier
    with family() as start:
        found = {}
        for name, (module, *arguments) in SERVERS.items():
            with socket.create_server(("127.0.0.1", 0)) as listening:
                number = listening.fileno()
                server = start(
                    name, "-m", module, *(each.format(number) for each in arguments),
                    descriptors=(number,), REDIS_URL=url, DATABASE_URL=database,
                )  # fmt: skip
                server.ends_with = {0, -signal.SIGTERM}  # Uvicorn lets the signal have its way
                found[name] = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield found


@pytest.fixture(scope="module", params=WORKERS)
def worker(
    request: pytest.FixtureRequest, carrier: tuple[str, str], database: str
) -> Iterator[str]:
    """The only worker there is."""
    with family() as start:
        options = ("--stop-on-eof", *WORKERS[request.param])
        places = {"REDIS_URL": carrier[1], "DATABASE_URL": database}
        start("worker", "manage.py", "runworker2", *options, **places).line("Worker ")
        yield request.param


@pytest.mark.parametrize("server", SERVERS)
def test_the_chat_is_the_same_everywhere(
    server, worker, carrier, places, browser_of, room, staff_room
):
    here, there = places[server], places[NEXT[server]]
    alice, bob = logs_in(here, "alice"), browser_of("bob", there)
    a_stranger_is_refused(here)
    with closing(Page(here, alice.cookie)) as hers, closing(Page(there, bob.cookie)) as his:
        they_meet_and_talk(hers, his, room)
        the_office_is_for_staff(hers, his, staff_room)
        who_leaves_is_seen_to_leave(hers, his, room)
    held.add((server, worker, carrier[0]))


def logs_in(url: str, name: str) -> Browser:
    """By the form, as a browser does; the page with the rooms then comes whole."""
    browser = Browser()
    with pytest.raises(HTTPError, match="403"):  # a form without its token
        urlopen(f"{url}/accounts/login/", b"username=alice")
    browser.log_in(url, name, PASSWORD)
    response, text = browser.get(f"{url}/")
    assert response.status == 200
    assert text.rstrip().endswith("</html>")
    return browser


def a_stranger_is_refused(url: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        Page(url, None)


def they_meet_and_talk(hers: Page, his: Page, room: int) -> None:
    assert hers.ask("join", room) == {"join": str(room), "title": "Garden"}
    assert his.ask("join", room) == {"join": str(room), "title": "Garden"}
    assert hers.hear() == came(room, "bob")
    for page, name, text in [(hers, "alice", "Tea? ☕"), (his, "bob", "Yes.")] * 3:
        page.say("send", room, message=text)
        assert [hers.hear(), his.hear()] == [said(room, name, text)] * 2


def the_office_is_for_staff(hers: Page, his: Page, office: int) -> None:
    assert hers.ask("join", office) == {"join": str(office), "title": "Office"}
    assert his.ask("join", office) == {"error": "ROOM_ACCESS_DENIED"}
    assert hers.ask("send", office, message="psst") == said(office, "alice", "psst")
    assert his.hears_nothing()


def who_leaves_is_seen_to_leave(hers: Page, his: Page, room: int) -> None:
    his.close()
    assert hers.hear() == left(room, "bob")


def test_the_document_says_what_this_run_has_shown():
    cells = len(SERVERS) * len(WORKERS) * len(CARRIERS)
    written = DOCUMENT.read_text()
    if os.environ.get("MATRIX") == "write":
        DOCUMENT.write_text(PLACE.sub(lambda found: found[1] + table() + found[2], written))
    elif len(held) < cells:
        pytest.skip(f"{len(held)} of {cells} cells were run")
    else:
        assert table() in written, f"{DOCUMENT.name} is out of date: run with MATRIX=write"


def table() -> str:
    columns = [(worker, carrier) for carrier in CARRIERS for worker in WORKERS]
    titles = " | ".join(f"{worker} worker, {carrier}" for worker, carrier in columns)
    lines = [f"| server | {titles} |", "|---" * (len(columns) + 1) + "|"]
    for server in SERVERS:
        marks = ("✓" if (server, *column) in held else "✗" for column in columns)
        lines.append(f"| {server} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"
