"""Supervised children: the messages about them, their restarts, and how they are stopped."""

import os
import sys
from pathlib import Path

import gevent
import gevent.event
import pytest

from thyme.supervisor import child as module
from thyme.supervisor.child import Child, ChildFailed, next_delay, run_command

HERE = Path(__file__).parent


def child(program: str, log, **options) -> Child:
    return Child("Number 1", [sys.executable, "-c", program], "ready", HERE, log, **options)


def test_a_child_is_ready_when_it_says_so_and_other_lines_are_logged():
    logged = []
    program = "import sys; print('hm', flush=True); print('ready 7', flush=True); input()"
    one = child(program, logged.append)
    one.start()
    assert one.ready() == "ready 7"
    one.stop()
    assert logged == ["hm"]


def test_a_child_that_exits_before_it_is_ready_is_not_restarted():
    logged = []
    one = child("raise SystemExit(3)", logged.append)
    one.start()
    with pytest.raises(ChildFailed, match=r"^Number 1 could not start: exited with code 3\.$"):
        one.ready()
    one.stop()
    assert logged == []


def test_a_child_that_is_stopped_before_it_is_ready_has_failed():
    one = child("import signal; signal.pause()", lambda line: None)
    one.start()
    gevent.sleep(0)
    one.stop()
    with pytest.raises(ChildFailed, match=r"^Number 1 was stopped before it was ready\.$"):
        one.ready()


def test_a_child_that_dies_young_is_restarted_after_growing_delays(monkeypatch):
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    enough = gevent.event.Event()
    logged = []

    def log(line: str) -> None:
        logged.append(line)
        if len(logged) == 4:
            enough.set()

    one = child("import os; print('ready', flush=True); os.kill(os.getpid(), 9)", log)
    one.start()
    assert enough.wait(30)
    one.stop()
    assert logged[0] == "Number 1 was terminated by SIGKILL; restarting it in 0.01 s."
    assert logged[1] == "ready", "an ordinary line the second time"
    assert logged[2] == "Number 1 was terminated by SIGKILL; restarting it in 0.02 s."


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace_period():
    program = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('ready', flush=True); signal.pause()"
    )
    one = child(program, lambda line: None, grace_seconds=0.1)
    one.start()
    one.ready()
    with gevent.Timeout(30):
        one.stop()


def test_the_standard_input_of_a_child_ends_when_its_parent_is_killed():
    program = (
        "import sys, subprocess; from pathlib import Path; "
        "from thyme.supervisor.child import Child; "
        "one = Child('x', [sys.executable, '-c', "
        '\'import sys; print("ready", flush=True); sys.stdin.read(); sys.exit("end")\'], '
        "'ready', Path('.'), print); one.start(); one.ready(); "
        "import os; os.kill(os.getpid(), 9)"
    )
    # The child inherits standard error, which ends only when the child has exited.
    with pytest.raises(ChildFailed, match=r"end\n.*was terminated by SIGKILL"):
        run_command([sys.executable, "-c", program], HERE.parents[2])


def test_the_output_of_a_command_is_returned():
    assert run_command([sys.executable, "-c", "print('done')"], HERE) == "done\n"


def test_the_last_lines_of_a_failed_command_are_shown():
    program = "import sys; sys.exit('the table is on fire')"
    with pytest.raises(ChildFailed, match=r"the table is on fire\n.* exited with code 1\.$"):
        run_command([sys.executable, "-c", program], HERE)


def test_a_command_is_killed_with_the_greenlet_that_runs_it(tmp_path):
    file = tmp_path / "pid"
    program = f"import os, signal; open({str(file)!r}, 'w').write(str(os.getpid())); signal.pause()"
    running = gevent.spawn(run_command, [sys.executable, "-c", program], HERE)
    with gevent.Timeout(30):
        while not (file.exists() and file.read_text()):
            gevent.sleep(0.01)
    running.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_delays_grow_up_to_a_limit_and_a_long_uptime_resets_them():
    delays = [0.0]
    for _ in range(10):
        delays.append(next_delay(delays[-1], uptime=0.1))
    assert delays[1:4] == [0.5, 1.0, 2.0]
    assert delays[-1] == module.LONGEST_DELAY
    assert next_delay(30.0, uptime=3600.0) == 0.0
