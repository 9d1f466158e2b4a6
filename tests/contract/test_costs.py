"""The costs of messages in Redis commands and bytes; `make bench` measures times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gevent
import pytest
import redis

from tests.conftest import needs
from tests.contract import plain
from tests.gredis.drivers.test_gevent import commands_called, crossbar, looking_in
from tests.thyme.cli.test_main import watched

__all__ = ["crossbar", "looking_in"]


def cost(looking_in: redis.Redis, act) -> tuple[dict[str, int], int]:
    """Return the commands and bytes of `act`, without those of measuring."""
    looking_in.config_resetstat()
    act()
    stats, calls = looking_in.info("stats"), commands_called(looking_in)
    for ours in ("info", "config|resetstat"):
        calls.pop(ours, None)
    return calls, stats["total_net_input_bytes"] + stats["total_net_output_bytes"]


def joined(crossbar, processes: int, members: int) -> list:
    """Return the mailboxes of that many members of "room", spread over that many processes."""
    mailboxes = []
    for _process in range(processes):
        one = crossbar()
        for _ in range(members // processes):
            mailboxes.append(one.mailbox())
            if (reply := one.join("room", mailboxes[-1].address.local)) is not None:
                reply.get()
    return mailboxes


def test_a_multicast_to_1000_members_costs_what_one_to_4_costs(crossbar, looking_in):
    sender = crossbar()
    costs = []
    for members in (4, 1000):
        mailboxes = joined(crossbar, 4, members)

        def send(mailboxes=mailboxes) -> None:
            assert sender.multicast("room", "x" * 100) == (4, 0)
            assert {mailbox.get() for mailbox in mailboxes} == {"x" * 100}

        send()
        costs.append(cost(looking_in, send))
        for mailbox in mailboxes:
            mailbox.close()
        sender.unicast(sender.mailbox().address, "all has been written")
        while looking_in.exists("gredis:group:room"):
            gevent.sleep(0)
    (few, few_bytes), (many, many_bytes) = costs
    assert few == many
    assert many["evalsha"] == 1
    assert many_bytes <= few_bytes + 50


def test_a_multicast_of_100_bytes_to_8_processes_takes_less_than_2_kB(crossbar, looking_in):
    sender = crossbar()
    mailboxes = joined(crossbar, 8, 80)

    def send() -> None:
        sender.multicast("room", "x" * 100)
        for mailbox in mailboxes:
            mailbox.get()

    send()
    looking_in.info("stats")
    _, empty = cost(looking_in, lambda: None)
    _, carried = cost(looking_in, send)
    assert carried - empty < 2000


@pytest.mark.parametrize("redis_server", ["redis"], indirect=True)
def test_an_idle_process_on_stock_asyncio_makes_no_system_call(redis_server, tmp_path: Path):
    strace = needs("strace")
    command = [sys.executable, plain.__file__, redis_server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as idle:
        try:
            idle.stdout.readline()
            assert watched(strace, idle.pid, tmp_path / "strace") == []
        finally:
            idle.kill()
