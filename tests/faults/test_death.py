"""What happens when a worker or a server dies: at once, though nobody sends anything."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from contextlib import closing

import pytest
import websocket

from tests.faults.conftest import wait_until
from tests.system.children import DEADLINE, Child

AT_ONCE = 30.0  # s; it takes 0.03 s, and longer only where a machine stands still
STOPPING = 1012


def closed_with(socket: websocket.WebSocket) -> int:
    """Wait for the close frame; its code."""
    opcode, data = socket.recv_data()
    assert opcode == websocket.ABNF.OPCODE_CLOSE
    return int.from_bytes(data[:2], "big")


class Request(threading.Thread):
    """A request under way, in a thread: `status` when it has been answered, or `error`."""

    def __init__(self, site, path, method="GET") -> None:
        super().__init__()
        self.site, self.path, self.method = site, path, method
        self.status, self.body, self.error = 0, b"", None
        self.start()

    def run(self) -> None:
        with closing(http.client.HTTPConnection(*self.site.address, timeout=DEADLINE)) as client:
            try:
                client.request(self.method, self.path)
                response = client.getresponse()
                self.status, self.body = response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                self.error = error


def test_the_sockets_of_a_killed_worker_are_closed_with_1012_at_once(site):
    site.serve()
    worker = site.work()
    with site.socket("/plain") as socket:
        socket.send("hello")
        assert socket.recv() == "hello"
        worker.kill()
        killed = time.monotonic()
        assert closed_with(socket) == STOPPING
        assert time.monotonic() - killed < AT_ONCE


def test_the_requests_of_a_killed_worker_are_answered_502_at_once(site):
    site.serve()
    worker = site.work()
    pending = Request(site, "/never")
    worker.line("begun")
    worker.kill()
    killed = time.monotonic()
    pending.join(DEADLINE)
    assert pending.status == 502
    assert time.monotonic() - killed < AT_ONCE


def test_a_response_that_a_killed_worker_had_begun_is_not_passed_off_as_whole(site):
    site.serve()
    worker = site.work()
    with closing(http.client.HTTPConnection(*site.address, timeout=DEADLINE)) as client:
        client.request("GET", "/half")
        response = client.getresponse()
        assert response.read(4) == b"half"
        worker.kill()
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    site.server.killed = True  # it logs the response that broke off, as an error


def test_users_of_other_workers_notice_nothing_of_a_death(site):
    site.serve()
    doomed = site.work("doomed")
    with site.socket("/plain") as one:
        one.send("a")
        assert one.recv() == "a"
        other_worker = site.work("other")
        with site.socket("/plain") as other:  # goes where there is most room
            other.send("b")
            assert other.recv() == "b"
            doomed.kill()
            assert closed_with(one) == STOPPING
            other.send("still here?")
            assert other.recv() == "still here?"
    assert other_worker.line("websocket.disconnect")


def test_a_worker_sees_disconnects_when_its_server_is_killed(site):
    site.serve()
    worker = site.work()
    with site.socket("/plain") as socket:
        socket.send("hello")
        assert socket.recv() == "hello"
        site.server.kill()
        killed = time.monotonic()
        assert worker.line("websocket.disconnect") == " 1006\n".rstrip("\n")
        assert time.monotonic() - killed < AT_ONCE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_socket_with_a_note_goes_on_in_another_worker(site, number):
    site.serve()
    first = site.work("first")
    with site.socket("/resumes") as socket:
        assert socket.recv() == f"{first.pid} None"
        socket.send("hello")
        assert socket.recv() == "hello"
        second = site.work("second")
        if number == signal.SIGKILL:
            first.kill()
        else:
            os.kill(first.pid, number)
        begin = time.monotonic()
        assert socket.recv() == f"{second.pid} b'a note'"
        assert time.monotonic() - begin < AT_ONCE
        socket.send("and now?")
        assert socket.recv() == "and now?"
        if number == signal.SIGTERM:
            assert first.line("websocket.handover") == " None"
            first.end(None)


def test_a_line_that_kills_its_worker_is_handed_over_once_and_no_more(site):
    """It may be the line; the third worker lives."""
    site.serve()
    first = site.work("first")
    with site.socket("/resumes") as socket:
        assert socket.recv() == f"{first.pid} None"
        others = [site.work("second"), site.work("third")]
        socket.send("die")
        opcode, data = socket.recv_data()
        while opcode == websocket.ABNF.OPCODE_TEXT:  # from the second, if it came so far
            opcode, data = socket.recv_data()
        assert int.from_bytes(data[:2], "big") == STOPPING
        wait_until(lambda: [other.running for other in others].count(False) == 1)
        for child in (first, *others):
            child.killed = True


def test_a_socket_with_a_note_waits_for_a_worker_that_is_still_to_come(site):
    site.serve()
    first = site.work("first")
    with site.socket("/resumes") as socket:
        assert socket.recv() == f"{first.pid} None"
        first.kill()
        socket.send("typed while there is no worker")
        second = site.work("second")
        assert socket.recv() == f"{second.pid} b'a note'"
        assert socket.recv() == "typed while there is no worker"


def test_a_line_that_a_worker_is_busy_with_for_too_long_when_it_stops_is_handed_over(site):
    site.serve()
    first = site.work("first")
    with site.socket("/resumes") as socket:
        assert socket.recv() == f"{first.pid} None"
        socket.send("stall here")
        assert first.line("begun") == ""
        second = site.work("second")
        first.end()
        assert socket.recv() == f"{second.pid} b'a note'"
        assert socket.recv() == "stall here"


def test_a_socket_that_is_being_opened_when_its_worker_stops_is_handed_over_too(site):
    site.serve()
    first = site.work("first")
    second: list[Child] = []

    def replace() -> None:
        first.line("begun")
        os.kill(first.pid, signal.SIGTERM)
        second.append(site.work("second"))
        first.end(None)

    replacing = threading.Thread(target=replace)
    replacing.start()
    with site.socket("/resumes?slow") as socket:
        assert socket.recv() == f"{first.pid} None"
        replacing.join(DEADLINE)
        assert socket.recv() == f"{second[0].pid} b'a note'"
        socket.send("and now?")
        assert socket.recv() == "and now?"


def test_a_worker_that_stops_closes_its_other_sockets_with_1012(site):
    site.serve()
    worker = site.work()
    with site.socket("/plain") as socket:
        socket.send("hello")
        assert socket.recv() == "hello"
        os.kill(worker.pid, signal.SIGTERM)
        assert closed_with(socket) == STOPPING
    worker.end(None)


def test_all_workers_are_replaced_under_load_without_one_failed_request(site):
    site.serve()
    workers = [site.work(name, drain_seconds=DEADLINE) for name in ("one", "two")]
    done, failures, answers = threading.Event(), [], []

    def ask() -> None:
        with closing(http.client.HTTPConnection(*site.address, timeout=DEADLINE)) as client:
            while not done.is_set():
                client.request("GET", "/slow")
                response = client.getresponse()
                body = response.read()
                (answers if response.status == 200 else failures).append((response.status, body))

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    with contextlib.ExitStack() as stack:
        stack.callback(done.set)
        for name in ("three", "four"):
            new = site.work(name, drain_seconds=DEADLINE)
            workers.pop(0).end()
            workers.append(new)
            many = len(answers)
            deadline = time.monotonic() + DEADLINE
            while len(answers) < many + 20 and time.monotonic() < deadline:
                time.sleep(0.01)
    for asker in askers:
        asker.join(DEADLINE)
    assert failures == []
    assert {int(body) for _, body in answers[-20:]} <= {worker.pid for worker in workers}


def test_a_full_system_answers_503_and_1013_instead_of_queueing(site):
    """No worker at all: two of each may wait, for a second, and no more."""
    site.serve(WAIT_SECONDS="1")
    waiting = [Request(site, "/") for _ in range(3)]
    for request in waiting:
        request.join(DEADLINE)
    assert [request.status for request in waiting] == [503] * 3
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        with site.socket("/plain"):
            pass
    assert refused.value.status_code == 503


def test_a_server_that_is_started_first_waits_for_its_worker(site):
    site.serve()
    request = Request(site, "/")
    worker = site.work()
    request.join(DEADLINE)
    assert (request.status, request.body) == (200, str(worker.pid).encode())


def test_redis_dies_and_comes_back_and_no_socket_notices(site):
    site.serve()
    site.work()
    with site.socket("/plain") as socket:
        socket.send("before")
        assert socket.recv() == "before"
        site.redis.kill()
        socket.send("while there is no Redis")
        site.redis.start()
        assert socket.recv() == "while there is no Redis"
        socket.send("after")
        assert socket.recv() == "after"
