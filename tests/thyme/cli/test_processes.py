"""Several processes on one socket: supervised, renewed without a refused connection, ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.thyme.cli.test_main import LIMIT, address, finished, thyme
from thyme.asgi import Receive, Scope, Send

PID = "tests.thyme.cli.test_processes:pid"


def pid(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells which process answers."""
    send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    send({"type": "http.response.body", "body": str(os.getpid()).encode()})


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=LIMIT) as answer:
        return answer.read().decode()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_processes_share_a_socket_and_a_killed_one_is_started_again() -> None:
    with thyme(PID, "--port", "0", "--processes", "2") as process:
        url = address(process)
        first: set[str] = set()
        until(lambda: first.add(ask(url)) or len(first) == 2)  # type: ignore[func-returns-value]
        victim = int(min(first))
        os.kill(victim, signal.SIGKILL)
        seen: set[str] = set()
        until(lambda: seen.add(ask(url)) or bool(seen - first))  # type: ignore[func-returns-value]
        process.send_signal(signal.SIGTERM)
        code, out, err = finished(process)
    assert (code, out) == (0, "")
    assert "was terminated by SIGKILL; restarting it" in err
    assert not any(alive(int(each)) for each in first | seen)


def test_sighup_replaces_the_processes_and_refuses_no_connection() -> None:
    with thyme(PID, "--port", "0", "--processes", "1") as process:
        url = address(process)
        old = ask(url)
        problems: list[Exception] = []
        done = threading.Event()

        def hammer() -> None:
            while not done.is_set():
                try:
                    ask(url)
                except (OSError, urllib.error.URLError) as problem:
                    problems.append(problem)

        threads = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in threads:
            thread.start()
        process.send_signal(signal.SIGHUP)
        until(lambda: not alive(int(old)))
        done.set()
        for thread in threads:
            thread.join()
        assert problems == []
        assert ask(url) != old
        process.send_signal(signal.SIGTERM)
        assert finished(process)[0] == 0


def test_processes_end_with_their_parent_however_it_ends() -> None:
    with thyme(PID, "--port", "0", "--processes", "1") as process:
        child = int(ask(address(process)))
        process.kill()
        process.wait()
        until(lambda: not alive(child))


def test_an_application_that_cannot_be_loaded_is_told_and_exit_code_1() -> None:
    with thyme("nowhere:app", "--port", "0", "--processes", "2") as process:
        code, out, err = finished(process)
    assert (code, out) == (1, "")
    assert "cannot find the application" in err
    assert "thyme: Process 1 could not start: exited with code 1." in err


def test_reload_starts_anew_when_a_file_changes_and_goes_on_when_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (
        "def app(scope, receive, send):\n"
        "    send({'type': 'http.response.start', 'status': 200})\n"
        "    send({'type': 'http.response.body', 'body': b'%s'})\n"
    )
    file = tmp_path / "site_of_mine.py"
    file.write_text(good % "one")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with thyme("site_of_mine:app", "--port", "0", "--reload", folder=tmp_path) as process:
        url = address(process)
        assert ask(url) == "one"
        file.write_text("this is no Python")
        assert process.stderr is not None
        until(lambda: "The old processes continue." in process.stderr.readline())  # type: ignore[union-attr]
        assert ask(url) == "one"
        file.write_text(good % "two, and longer")
        until(lambda: ask(url) == "two, and longer")


def metrics_place(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    match = re.search(r"health and metrics are on (\S+)", process.stderr.readline())
    assert match
    return match[1]


def figure(place: str, name: str) -> float:
    match = re.search(rf"^{name} (\S+)$", ask(f"{place}/metrics"), re.MULTILINE)
    assert match
    return float(match[1])


def healthy(place: str) -> bool:
    """Whether all is said to be well; not so when a busy machine lets an answer wait too long."""
    try:
        return ask(f"{place}/health") == "ok\n"
    except urllib.error.HTTPError as problem:
        problem.close()
        return False


def test_metrics_are_those_of_all_processes_added_up() -> None:
    with thyme(PID, "--port", "0", "--processes", "2", "--metrics", "0") as process:
        place = metrics_place(process)
        url = address(process)
        answering: list[str] = []
        until(lambda: answering.append(ask(url)) or len(set(answering)) == 2)  # type: ignore[func-returns-value]
        until(lambda: figure(place, "thyme_requests_total") == len(answering))
        until(lambda: healthy(place))


def test_health_tells_when_a_process_is_missing() -> None:
    with thyme(PID, "--port", "0", "--processes", "1", "--metrics", "0") as process:
        place = metrics_place(process)
        child = int(ask(address(process)))
        os.kill(child, signal.SIGSTOP)
        try:
            with pytest.raises(urllib.error.HTTPError) as answer:
                ask(f"{place}/health")
            assert answer.value.code == 503
            answer.value.close()
        finally:
            os.kill(child, signal.SIGCONT)  # or it would not see that its parent ends


@pytest.mark.parametrize("place", ["--port=0", "--bind=unix:{}/served"])
def test_a_single_process_that_gets_sighup_hands_over_and_refuses_no_connection(
    place: str, tmp_path: Path
) -> None:
    arguments = (place.format(tmp_path), "--bind=127.0.0.1:0", "--metrics=0")
    with thyme(PID, *arguments) as process:
        metrics = metrics_place(process)
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert int(ask(url)) == process.pid
        first = replaced(process, url, str(process.pid))
        assert first != str(process.pid)
        until(lambda: healthy(metrics))
        second = replaced(process, url, first)
        assert (tmp_path / "served").exists() == ("unix" in place)
        process.send_signal(signal.SIGTERM)
        assert finished(process)[0] == 0
    assert not any(alive(int(each)) for each in (first, second))
    assert not (tmp_path / "served").exists()


def replaced(process: subprocess.Popen[str], url: str, old: str) -> str:
    """Who answers in the place of `old` after SIGHUP, which nobody who asks must notice."""
    problems: list[Exception] = []
    answers = [old]
    done = threading.Event()

    def hammer() -> None:
        while not done.is_set():
            try:
                answers.append(ask(url))
            except (OSError, urllib.error.URLError) as problem:
                problems.append(problem)

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    process.send_signal(signal.SIGHUP)
    until(lambda: answers[-1] != old or bool(problems))
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    return next(who for who in reversed(answers) if who != old)


def test_a_single_process_goes_on_when_its_successor_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site_of_mine.py"
    file.write_text("from tests.thyme.cli.test_processes import pid\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    with thyme("site_of_mine:pid", "--port", "0", folder=tmp_path) as process:
        url = address(process)
        file.write_text("this is no Python, and longer than what it was before")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        until(lambda: "The old process continues." in process.stderr.readline())  # type: ignore[union-attr]
        assert int(ask(url)) == process.pid


def test_sigterm_does_not_wait_for_a_new_generation_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site_of_mine.py"
    file.write_text("from tests.thyme.cli.test_processes import pid\n")
    hang = "import os, time\nopen({!r}, 'w').close()\ntime.sleep(3600)\n"
    started = tmp_path / "started"
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    arguments = ("--port=0", "--processes=1", "--drain-seconds=0")
    with thyme("site_of_mine:pid", *arguments, folder=tmp_path) as process:
        url = address(process)
        serves = int(ask(url))
        file.write_text(hang.format(str(started)))
        process.send_signal(signal.SIGHUP)
        until(started.exists)
        process.send_signal(signal.SIGTERM)
        assert finished(process)[0] == 0
    assert not alive(serves)


def test_an_inherited_socket_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        os.set_inheritable(number, True)
        with thyme(PID, "--bind", f"fd://{number}", inherits=(number,)) as process:
            assert int(ask(address(process))) == process.pid


def test_a_missing_certificate_is_one_sentence() -> None:
    with thyme(PID, "--certificate", "/nowhere.pem") as process:
        assert finished(process) == (
            (1, "", "thyme: cannot load the certificate /nowhere.pem: No such file or directory\n")
        )


def test_the_access_log_goes_to_standard_error() -> None:
    with thyme(PID, "--port", "0", "--access-log", "common") as process:
        ask(address(process))
        process.send_signal(signal.SIGTERM)
        code, out, err = finished(process)
    assert (code, out) == (0, "")
    assert re.fullmatch(r'127\.0\.0\.1 - - \[.*\] "GET / HTTP/1\.1" 200 \d+\n', err)


def test_a_startup_that_fails_is_one_sentence() -> None:
    with thyme("tests.thyme.cli.test_processes:broken", "--port", "0") as process:
        code, _, err = finished(process)
    assert (code, err) == (1, "thyme: the application cannot start: no database\n")


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI 3 application whose startup fails."""
    await receive()  # type: ignore[misc]
    await send({"type": "lifespan.startup.failed", "message": "no database"})  # type: ignore[func-returns-value]
