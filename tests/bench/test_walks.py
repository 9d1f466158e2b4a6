"""Redis commands and greenlets of a page and of a line of chat, as docs/guarantees.md has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.walks import Walk, database, measured


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with database() as found:
        yield found


@pytest.fixture(scope="module")
def whole(url: str) -> dict[str, Walk]:
    """The walks through one process."""
    return measured(0, ["page", "line"], url, repeats=1)


@pytest.fixture(scope="module")
def split(url: str) -> dict[str, Walk]:
    """The walks through two servers and one worker."""
    return measured(2, ["page", "line"], url, repeats=1)


def test_a_page_in_one_process_stays_in_one_greenlet_and_asks_redis_nothing(whole):
    page = whole["page"]
    assert (page.greenlets, page.scripts.total(), page.pushed) == (1, 0, 0)


def test_a_line_in_one_process_costs_one_redis_command_and_one_message(whole):
    line = whole["line"]
    assert (line.scripts, line.pushed) == ({"multicast": 1}, 1)


def test_a_page_in_the_split_costs_five_redis_commands_and_four_messages(split):
    page = split["page"]
    assert page.scripts == {"anycast": 1, "unicast": 3, "consume": 1}
    assert page.pushed == 4


def test_a_line_between_two_servers_costs_five_redis_commands_and_five_messages(split):
    line = split["line"]
    assert line.scripts == {"multicast": 1, "unicast": 4}
    assert line.pushed == 5


def test_only_the_processes_that_take_part_run_any_code(split):
    assert split["page"].processes["server 2"] == []
    assert {name for name, calls in split["line"].processes.items() if calls} == {
        "server 1",
        "server 2",
        "worker",
    }
