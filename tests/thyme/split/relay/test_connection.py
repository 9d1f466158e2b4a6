"""The server's half of a connection, without any I/O: one worker succeeds another."""

from __future__ import annotations

import pytest

from thyme.split.flow_control import WEBSOCKET, Window
from thyme.split.link import Link
from thyme.split.relay.assignment import Attempt
from thyme.split.relay.connection import Relayed
from thyme.split.wire import FAILED, RELEASE, TAKEN

SCOPE = {"type": "websocket", "path": "/", "headers": [], "extensions": {}}
ACCEPT = {"type": "websocket.accept"}


def line(text: str) -> dict[str, str]:
    return {"type": "websocket.send", "text": text}


class Socket:
    """A half whose peer takes all at once, and the workers it is given to."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.half = Relayed(SCOPE, "s", Window(), WEBSOCKET)
        self.half.output.begin = self._begin
        self.half.from_peer({"type": "websocket.connect"})
        self.number = 0

    def _begin(self, event: dict[str, str]) -> bool:
        self.heard.append(event["text"])
        return True

    def worker(self) -> Attempt:
        """Another one, that has said hello."""
        self.number += 1
        attempt = self.half.begin_attempt(self.number)
        self.half.opening(attempt, "here!1", None)
        link = Link("here!1", f"there{self.number}!1", lambda wire: None, lambda function: None)
        self.half.hello(attempt, link, Window())
        return attempt

    def says(self, attempt: Attempt, *events: dict[str, str], once: object = None) -> None:
        for event in events:
            self.half.event(attempt, event, 64, once)

    def begun(self) -> Attempt:
        """A worker that has accepted, and left a note."""
        attempt = self.worker()
        self.says(attempt, ACCEPT)
        self.half.output.sent(self.half.output.next())
        assert self.half.output.next() is None
        self.half.keep_note(attempt, b"first")
        return attempt


def told(attempt: Attempt, kind: str = RELEASE) -> list[list]:
    return [entry[1:] for entry in attempt.link._batch.entries if entry[1] == kind]


@pytest.fixture
def socket() -> Socket:
    return Socket()


def test_what_a_successor_says_comes_after_the_last_lines_of_who_leaves(socket):
    first = socket.begun()
    assert socket.half.leave(first)
    second = socket.worker()
    socket.says(first, line("a"))
    socket.says(second, ACCEPT, line("d"))
    assert told(first) == [[RELEASE, True]]
    socket.says(first, line("b"), line("c"))  # they were on their way to its consumer
    socket.says(second, line("e"))
    assert socket.heard == ["a", "b", "c"]
    socket.half.end(first, "returned")
    socket.says(second, line("f"))
    assert socket.heard == ["a", "b", "c", "d", "e", "f"]


def test_what_both_have_heard_is_said_once_and_in_order(socket):
    first = socket.begun()
    socket.half.leave(first)
    second = socket.worker()
    socket.says(second, ACCEPT)
    socket.says(second, line("c"), once=["s", 3])
    for number, text in enumerate("abc", 1):
        socket.says(first, line(text), once=["s", number])
    socket.half.end(first, "returned")
    assert socket.heard == ["a", "b", "c"]


@pytest.mark.parametrize("how", ["dies", "takes too long"])
def test_a_successor_does_not_wait_for_ever(socket, how):
    first = socket.begun()
    waited = []
    socket.half.soon_settle = waited.append
    socket.half.leave(first)
    second = socket.worker()
    socket.says(second, ACCEPT, line("a"))
    assert waited == [first]
    if how == "dies":
        assert not socket.half.died(first)
    else:
        socket.half.settle(first)
    assert socket.heard == ["a"]
    socket.says(first, line("too late"))
    assert socket.heard == ["a"]


def test_a_successor_that_must_leave_itself_is_heard_before_the_next_one(socket):
    first = socket.begun()
    socket.half.leave(first)
    second = socket.worker()
    socket.says(second, ACCEPT, line("a"))
    assert socket.half.leave(second)
    socket.says(second, line("b"))
    socket.half.settle(first)  # whose time is over: the second one's is not
    socket.says(second, line("c"))
    third = socket.worker()
    socket.says(third, ACCEPT, line("d"))
    socket.half.end(second, "returned")
    assert socket.heard == ["a", "b", "c", "d"]


def test_who_leaves_may_say_lines_but_decides_nothing_once_it_is_succeeded(socket):
    first = socket.begun()
    socket.half.leave(first)
    second = socket.worker()
    socket.half.keep_note(first, b"still the first's")
    socket.says(second, ACCEPT)
    socket.half.keep_note(second, b"second")
    socket.half.keep_note(first, b"too late")
    socket.says(first, {"type": "websocket.close", "code": 1000})
    socket.half.end(first, "returned")
    third = socket.half.begin_attempt(9)
    opening = socket.half.opening(third, "here!1", None)
    assert opening["scope"]["extensions"]["websocket.resume"]["note"] == b"second"
    assert socket.half.output.next() is None


def test_who_leaves_when_nobody_came_is_told_that_the_peer_has_gone(socket):
    """So that it can tell the rooms."""
    first = socket.begun()
    socket.half.leave(first)
    socket.half.begin_attempt(9)
    socket.half.refuse(503, 1012, "no worker has room")
    socket.half.abandon()
    assert told(first) == [[RELEASE, False]]


def test_who_was_succeeded_is_not_told_that_the_peer_has_gone(socket):
    """Or else it would tell the rooms, too, and both would deal with what the peer said last."""
    first = socket.begun()
    socket.half.leave(first)
    socket.says(socket.worker(), ACCEPT)
    socket.half.abandon()
    assert told(first) == [[RELEASE, True]]


def test_what_a_successor_said_before_it_died_is_heard(socket):
    first = socket.begun()
    socket.half.leave(first)
    second = socket.worker()
    socket.says(second, ACCEPT, line("a"))
    assert socket.half.died(second)
    assert socket.heard == ["a"]


@pytest.mark.parametrize("how", ["leaves", "fails"])
def test_a_successor_that_accepts_nothing_silences_nobody(socket, how):
    first = socket.begun()
    socket.half.leave(first)
    second = socket.worker()
    if how == "leaves":
        assert socket.half.leave(second)
        socket.worker()
    else:
        socket.half.end(second, FAILED)
        assert socket.half.over
    socket.half.abandon()
    assert told(first) == [[RELEASE, False]]


def test_a_socket_that_nobody_has_accepted_goes_on_when_its_worker_leaves(socket):
    assert socket.half.leave(socket.worker())
    socket.begun()
    assert socket.half.output.next() is None


def lines(count: int) -> list[dict[str, str]]:
    return [line(str(number)) for number in range(count)]


def test_who_leaves_is_told_what_the_peer_has_taken_until_another_one_is_heard(socket):
    """Or else its window is used up, and it says nothing more."""
    first = socket.begun()
    socket.half.leave(first)
    second = socket.worker()
    socket.says(first, *lines(64))
    assert sum(events for _, events, _ in told(first, TAKEN)) == 64
    socket.says(second, ACCEPT)
    socket.says(first, *lines(32))
    socket.says(second, *lines(32))
    assert sum(events for _, events, _ in told(first, TAKEN)) == 96
    assert told(second, TAKEN) == []
    socket.half.end(first, "returned")
    assert told(second, TAKEN) == [[TAKEN, 32, 32 * 64]]


def test_what_the_peer_takes_of_one_is_no_room_for_the_next(socket):
    first = socket.begun()
    socket.half.output.begin = None  # from here on the peer takes nothing
    socket.says(first, *lines(40))
    socket.half.died(first)
    second = socket.worker()
    socket.says(second, ACCEPT, *lines(40))
    output = socket.half.output
    for _ in range(40):
        output.sent(output.next())
    assert told(second, TAKEN) == []
    for _ in range(40):
        output.sent(output.next())
    assert told(second, TAKEN) != []
