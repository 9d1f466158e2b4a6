"""The command line, as a process: one line on standard output, clear sentences, exit codes."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import needs

ROOT = Path(__file__).parents[3]
HELLO = "tests.thyme.serving:hello"
ECHO = "tests.thyme.serving:echo"
LIMIT = 60  # seconds for a process to start or end; much more than it takes
QUIET_SECONDS = 3  # seconds for which an idle server is watched


@contextmanager
def thyme(
    *arguments: str, folder: Path = ROOT, inherits: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """`python -m thyme` with pipes for everything; afterwards it is gone."""
    process = subprocess.Popen(
        [sys.executable, "-m", "thyme", *arguments],
        cwd=folder,
        pass_fds=inherits,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        with process:
            process.kill()


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.fullmatch(r"Thyme listens on (http://\S+)\n", line)
    assert match, (line, process.stderr and process.stderr.read())
    return match[1]


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, and what it printed since."""
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_serves_and_stops_on_a_signal(number: signal.Signals) -> None:
    with thyme(HELLO, "--port", "0") as process:
        with urllib.request.urlopen(f"{address(process)}/x", timeout=LIMIT) as answer:
            assert answer.read() == b"hello /x"
        process.send_signal(number)
        assert finished(process) == (0, "", "")


def test_it_stops_when_standard_input_ends_if_asked_to() -> None:
    with thyme(HELLO, "--port", "0", "--stop-on-eof") as process:
        address(process)
        assert process.stdin is not None
        process.stdin.write("ignored\n")
        process.stdin.close()
        assert process.wait(LIMIT) == 0


def test_a_second_signal_ends_it_at_once() -> None:
    with thyme(
        "tests.thyme.cli.test_main:sleeper", "--port", "0", "--drain-seconds", "1000"
    ) as process:
        host, port = address(process).removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert peer.recv(100).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
            process.send_signal(signal.SIGTERM)
            assert finished(process) == (0, "", "")


def sleeper(scope: object, receive: object, send: object) -> None:
    """An application that begins and does not end."""
    send({"type": "http.response.start", "status": 200})  # type: ignore[operator]
    send({"type": "http.response.body", "more_body": True})  # type: ignore[operator]
    time.sleep(1000)


def test_a_port_in_use_is_one_sentence_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with thyme(HELLO, "--port", str(port)) as process:
            code, out, err = finished(process)
    assert (code, out) == (1, "")
    assert err == (
        f"thyme: cannot listen on 127.0.0.1 port {port}: Address already in use; "
        "choose another with --host or --port\n"
    )


@pytest.mark.parametrize("app", ["nonsense", "nowhere.to.be:found", "tests.thyme.serving:nothing"])
def test_an_application_that_is_not_there_is_one_sentence_and_exit_code_1(app: str) -> None:
    with thyme(app) as process:
        code, out, err = finished(process)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"thyme: cannot find the application: .*\n", err)


@pytest.mark.parametrize(
    "options",
    [["--port", "65536"], ["--port", "x"], ["--drain-seconds", "-1"], ["--connections", "0"], []],
)
def test_wrong_options_are_explained_and_exit_code_2(options: list[str]) -> None:
    with thyme(*([HELLO] if options else []), *options) as process:
        code, out, err = finished(process)
    assert (code, out) == (2, "")
    assert "usage: python -m thyme" in err


def test_help_shows_every_option_and_examples() -> None:
    with thyme("--help") as process:
        code, out, err = finished(process)
    assert (code, err) == (0, "")
    for text in ("--host", "--stop-on-eof", "--compress", "async def", "examples:", "SIGTERM"):
        assert text in out


def test_an_idle_server_with_open_websockets_makes_no_system_call(tmp_path: Path) -> None:
    strace = needs("strace")
    with thyme(ECHO, "--port", "0", "--stop-on-eof") as process:
        host, port = address(process).removeprefix("http://").split(":")
        peers = [socket.create_connection((host, int(port))) for _ in range(20)]
        try:
            for peer in peers[:15]:
                peer.sendall(
                    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    b"Sec-WebSocket-Version: 13\r\n\r\n"
                )
                assert peer.recv(1000).startswith(b"HTTP/1.1 101")
            for peer in peers[15:]:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert peer.recv(1000).startswith(b"HTTP/1.1 200")
            calls = watched(strace, process.pid, tmp_path / "calls")
        finally:
            for peer in peers:
                peer.close()
    assert calls == []


def watched(strace: str, pid: int, log: Path) -> list[str]:
    """The system calls that begin in `QUIET_SECONDS`, once the process has come to rest.

    Attaching interrupts the call that the process sleeps in, which it then makes again, and a busy
    machine may take its time for that: the measurement begins when there has been nothing for half
    a second, and ends before strace lets go.
    """
    command = [strace, "-f", "-qq", "-ttt", "-o", str(log), "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        deadline = time.monotonic() + LIMIT
        size, resting = 0, 0
        while resting < 10:
            assert time.monotonic() < deadline, "strace saw nothing, or no end of it"
            time.sleep(0.05)
            before, size = size, log.stat().st_size if log.exists() else 0
            resting = resting + 1 if size and size == before else 0
        begin = time.time()
        time.sleep(QUIET_SECONDS)
        end = time.time()
        tracer.send_signal(signal.SIGINT)
    lines = log.read_text().splitlines()
    return [line for line in lines if begin < float(line.split()[1]) < end]
