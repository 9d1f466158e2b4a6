"""Looking in, from code and from the command line; and the hub as a program."""

from __future__ import annotations

import signal
import subprocess
import sys

import gevent
import pytest
from gevent import subprocess as cooperative

from gredis import status
from gredis.drivers.gevent import GeventCrossbar
from tests.contract.hubs import running_hub
from tests.gredis.drivers.test_gevent import DEADLINE, crossbar

__all__ = ["crossbar"]


def gredis(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gredis", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def furnish(one: GeventCrossbar) -> None:
    """A group, a queue with room, a queue where a message waits, a dropped message."""
    local = one.mailbox().address.local
    one.join("room", local).get()
    one.consume("http", lambda body: None, 7).get()
    one.anycast("jobs", "a job")
    full = GeventCrossbar(one.connections[0].location.display_url, capacity=0)
    full.multicast("room", "dropped")
    full.close()


def check(figures: status.Figures, one: GeventCrossbar) -> None:
    (inbox,) = figures.inboxes
    assert (inbox.name, inbox.present, inbox.ever, inbox.dropped) == (one.inbox, True, 1, 1)
    queues = {queue.name: queue for queue in figures.queues}
    assert (queues["http"].takers, queues["http"].room, queues["http"].waiting) == (1, 7, 0)
    assert (queues["jobs"].takers, queues["jobs"].waiting) == (0, 1)
    assert 0 <= queues["jobs"].age < 10_000
    assert figures.groups == [status.GroupFigures("room", 1)]


def test_the_figures_say_what_there_is(crossbar):
    one = crossbar()
    furnish(one)
    check(status.read_from(one_more := crossbar()), one)
    one_more.close()
    check(status.read(one.connections[0].location.display_url), one)


def test_the_figures_for_prometheus_are_of_this_process_and_of_all_queues(crossbar):
    one = crossbar()
    furnish(one)
    found = {name: values for name, _, _, values in status.metrics(one)}
    assert found["gredis_messages_received_total"] == {"": one.router.counters.received}
    assert found["gredis_queue_waiting"] == {'queue="http"': 0, 'queue="jobs"': 1}


def test_the_hub_has_the_same_figures_and_the_command_shows_them():
    with running_hub() as hub, gevent.Timeout(DEADLINE):
        one = GeventCrossbar(hub.url)
        furnish(one)
        check(status.read(hub.url), one)
        shown = gredis("status", "--url", hub.url).stdout
        one.close()
    lines = shown.splitlines()
    assert lines[0].split() == ["inbox", "there", "kept", "oldest", "ever", "dropped"]
    assert lines[1].split()[:2] == [one.inbox, "yes"]
    assert ["room", "1"] in [line.split() for line in lines]
    assert any(line.startswith("jobs") for line in lines)


def test_status_says_in_one_sentence_that_nobody_answers(tmp_path):
    done = gredis("status", "--url", f"unix://{tmp_path}/nobody")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("gredis: no answer from unix://")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_hub_stops_when_told_to_with_exit_code_0(number):
    with running_hub() as hub:
        hub.process.send_signal(number)
        assert hub.process.wait(DEADLINE) == 0


def test_the_hub_says_that_its_port_is_in_use():
    with running_hub() as hub:
        done = gredis("--port", str(hub.port))
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_noise_on_a_hubs_port_harms_nobody():
    with running_hub() as hub, gevent.Timeout(DEADLINE):
        for noise in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0\0\0\1\xc0",
            b"\0\0\0\2\x91\1",
            b"\0\0\0\1\xc1",
        ):
            with gevent.socket.create_connection(("127.0.0.1", hub.port)) as loud:
                loud.sendall(noise)
                assert loud.recv(100) == b""
        one = GeventCrossbar(hub.url)
        assert one.multicast("room", "x") == (0, 0)
        one.close()


def test_the_table_is_shown_again_and_again_until_somebody_interrupts():
    with running_hub() as hub, gevent.Timeout(DEADLINE):
        one = GeventCrossbar(hub.url)
        one.open()
        command = [sys.executable, "-m", "gredis", "status", "--url", hub.url, "--every", "0.05"]
        with cooperative.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
            try:
                rooms: set[str] = set()
                while "later" not in rooms:
                    line = watching.stdout.readline()
                    rooms |= set(line.split()[:1])
                    if line.startswith("\x1b[H") and one.inbox in rooms:
                        one.join("later", one.mailbox().address.local)
                watching.send_signal(signal.SIGINT)
                assert watching.wait(DEADLINE) == 0
            finally:
                watching.kill()
        assert one.inbox in rooms
        one.close()
