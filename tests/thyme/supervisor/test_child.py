"""Supervised children: what is said about them, when they start again, how they end."""

import signal
import sys
from pathlib import Path

import gevent
import gevent.event
import pytest

from thyme.supervisor import child as children
from thyme.supervisor.child import Child, ChildFailed, next_delay, run_command

HERE = Path(__file__).parent


def child(program: str, heard: list) -> Child:
    return Child("Number 1", [sys.executable, "-c", program], "ready", HERE, heard.append)


def test_a_child_is_ready_when_it_says_so_and_other_lines_are_passed_on():
    heard = []
    one = child("import sys; print('hm', flush=True); print('ready 7', flush=True); input()", heard)
    one.start()
    assert one.ready() == "ready 7"
    one.stop()
    assert heard == ["hm"]


def test_a_child_that_ends_before_it_is_ready_is_not_tried_again():
    heard = []
    one = child("raise SystemExit(3)", heard)
    one.start()
    with pytest.raises(ChildFailed, match=r"^Number 1 could not start: exited with code 3\.$"):
        one.ready()
    one.stop()
    assert heard == []


def test_a_child_that_dies_young_is_started_again_after_a_pause(monkeypatch):
    monkeypatch.setattr(children, "FIRST_DELAY", 0.01)
    again = gevent.event.Event()
    heard = []
    program = "import os; print('ready', flush=True); os.kill(os.getpid(), 9)"
    one = Child("Number 1", [sys.executable, "-c", program], "ready", HERE, heard.append)
    one._say = lambda line: (heard.append(line), len(heard) == 4 and again.set())
    one.start()
    assert again.wait(30)
    one.stop()
    assert heard[0] == "Number 1 was terminated by SIGKILL; restarting it in 0.01 s."
    assert heard[1] == "ready", "a line like any other the second time"
    assert heard[2] == "Number 1 was terminated by SIGKILL; restarting it in 0.02 s."


def test_a_child_that_does_not_end_in_time_is_killed(monkeypatch):
    monkeypatch.setattr(children, "STOP_GRACE", 0.1)
    heard = []
    program = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('ready', flush=True); signal.pause()"
    )
    one = child(program, heard)
    one.start()
    one.ready()
    with gevent.Timeout(30):
        one.stop()


def test_a_child_sees_the_end_of_its_input_when_we_are_gone():
    program = (
        "import sys, subprocess; from pathlib import Path; "
        "from thyme.supervisor.child import Child; "
        "one = Child('x', [sys.executable, '-c', "
        '\'import sys; print("ready", flush=True); sys.stdin.read(); print("end")\'], '
        "'ready', Path('.'), print); one.start(); one.ready(); "
        "import os; os.kill(os.getpid(), 9)"
    )
    with pytest.raises(ChildFailed, match="was terminated by SIGKILL"):
        run_command([sys.executable, "-c", program], HERE.parents[2])


def test_the_output_of_a_command_is_returned():
    assert run_command([sys.executable, "-c", "print('done')"], HERE) == "done\n"


def test_the_last_words_of_a_failed_command_are_shown():
    program = "import sys; sys.exit('the table is on fire')"
    with pytest.raises(ChildFailed, match=r"the table is on fire\n.* exited with code 1\.$"):
        run_command([sys.executable, "-c", program], HERE)


def test_a_command_dies_with_the_greenlet_that_waits_for_it():
    with gevent.Timeout(0.2, False):
        run_command(
            [sys.executable, "-c", f"import signal; signal.pause() or {signal.SIGTERM:d}"], HERE
        )
        pytest.fail("it ended by itself")


def test_pauses_grow_up_to_a_limit_and_a_long_life_ends_them():
    pauses = [0.0]
    for _ in range(10):
        pauses.append(next_delay(pauses[-1], uptime=0.1))
    assert pauses[1:4] == [0.5, 1.0, 2.0]
    assert pauses[-1] == children.LONGEST_DELAY
    assert next_delay(30.0, uptime=3600.0) == 0.0
