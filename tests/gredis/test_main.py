"""The command line: the hub as a program, and the table of figures."""

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
from tests.gredis.drivers.test_gevent import DEADLINE
from tests.gredis.test_status import check, furnish


def gredis(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gredis", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def test_the_hub_has_the_same_figures_and_the_command_shows_them():
    with running_hub() as hub, gevent.Timeout(DEADLINE):
        one = GeventCrossbar(hub.url)
        furnish(one)
        check(status.read(hub.url), one)
        shown = gredis("status", "--url", hub.url).stdout
        one.close()
    lines = shown.splitlines()
    assert lines[0].split() == ["inbox", "connected", "kept", "oldest", "total", "dropped"]
    assert lines[1].split()[:2] == [one.inbox, "yes"]
    assert ["room", "1"] in [line.split() for line in lines]
    assert any(line.startswith("jobs") for line in lines)


def test_status_reports_in_one_line_that_no_server_answers(tmp_path):
    done = gredis("status", "--url", f"unix://{tmp_path}/nobody")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("gredis: no answer from unix://")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_hub_exits_with_code_0_on_sigterm_and_sigint(number):
    with running_hub() as hub:
        hub.process.send_signal(number)
        assert hub.process.wait(DEADLINE) == 0


def test_the_hub_reports_that_its_port_is_in_use():
    with running_hub() as hub:
        done = gredis("--port", str(hub.port))
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_is_repeated_until_an_interrupt():
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
