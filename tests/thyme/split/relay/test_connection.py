"""The relay's end of a connection, without any I/O: one worker succeeds another."""

from __future__ import annotations

import pytest

from tests.thyme.split.links import RecordingLink
from thyme.protocol.close_codes import CloseCode
from thyme.split.flow_control import WEBSOCKET_QUEUE, Window
from thyme.split.relay.assignment import Assignment
from thyme.split.relay.connection import RelayedConnection
from thyme.split.states import RelayedState
from thyme.split.wire import EVENT, FAILED, RELEASE, WINDOW_UPDATE

SCOPE = {"type": "websocket", "path": "/", "headers": [], "extensions": {}}
ACCEPT = {"type": "websocket.accept"}


def line(text: str) -> dict[str, str]:
    return {"type": "websocket.send", "text": text}


class Socket:
    """A connection whose peer reads everything at once, and the workers it is assigned to."""

    def __init__(self) -> None:
        self.received: list[str] = []  # by the peer
        self.reads = True
        self.takeovers: list[Assignment] = []
        self.connection = RelayedConnection(
            SCOPE,
            "s",
            Window(),
            WEBSOCKET_QUEUE,
            notify=lambda: None,
            on_room=lambda: None,
            on_takeover=lambda connection, departing: self.takeovers.append(departing),
            send_nowait=self._send_nowait,
        )
        self.connection.receive_from_peer({"type": "websocket.connect"})
        self.number = 0

    def _send_nowait(self, event: dict[str, str]) -> bool:
        self.received.append(event["text"])
        return self.reads

    def worker(self) -> Assignment:
        """Assign another worker, which says hello."""
        self.number += 1
        assignment = self.connection.assign(self.number)
        self.connection.opening(assignment, "here!1", None)
        link = RecordingLink(remote=f"there{self.number}!1")
        self.connection.handle_hello(assignment, link, Window())
        return assignment

    def send(self, assignment: Assignment, *events: dict[str, str], once: object = None) -> None:
        for event in events:
            self.connection.handle_event(assignment, event, 64, once)

    def accepted(self) -> Assignment:
        """Assign a worker that has accepted, and sent a note."""
        assignment = self.worker()
        self.send(assignment, ACCEPT)
        output = self.connection.output
        output.written(output.next())
        assert output.next() is None
        self.connection.handle_note(assignment, b"first")
        return assignment


def sent(assignment: Assignment, kind: str = RELEASE) -> list[list]:
    return assignment.link.sent(kind)


@pytest.fixture
def socket() -> Socket:
    return Socket()


def test_a_successors_output_comes_after_the_last_output_of_the_departing_worker(socket):
    first = socket.accepted()
    assert socket.connection.handle_leave(first)
    second = socket.worker()
    socket.send(first, line("a"))
    socket.send(second, ACCEPT, line("d"))
    assert socket.connection.state is RelayedState.TAKEOVER
    assert sent(first) == [[RELEASE, True]]
    socket.send(first, line("b"), line("c"))  # they were on their way to its consumer
    socket.send(second, line("e"))
    assert socket.received == ["a", "b", "c"]
    socket.connection.handle_end(first, "returned")
    assert socket.connection.state is RelayedState.ANSWERED
    socket.send(second, line("f"))
    assert socket.received == ["a", "b", "c", "d", "e", "f"]


def test_messages_that_both_workers_send_are_sent_once_and_in_order(socket):
    first = socket.accepted()
    socket.connection.handle_leave(first)
    second = socket.worker()
    socket.send(second, ACCEPT)
    socket.send(second, line("c"), once=["s", 3])
    for number, text in enumerate("abc", 1):
        socket.send(first, line(text), once=["s", number])
    socket.connection.handle_end(first, "returned")
    assert socket.received == ["a", "b", "c"]


@pytest.mark.parametrize("how", ["dies", "takes too long"])
def test_a_successor_does_not_wait_for_ever(socket, how):
    first = socket.accepted()
    socket.connection.handle_leave(first)
    second = socket.worker()
    socket.send(second, ACCEPT, line("a"))
    assert socket.takeovers == [first]
    if how == "dies":
        assert not socket.connection.handle_worker_death(first)
    else:
        socket.connection.finish_takeover(first)
    assert socket.received == ["a"]
    socket.send(first, line("too late"))
    assert socket.received == ["a"]


def test_a_successor_that_must_leave_itself_is_heard_before_the_next_one(socket):
    first = socket.accepted()
    socket.connection.handle_leave(first)
    second = socket.worker()
    socket.send(second, ACCEPT, line("a"))
    assert socket.connection.handle_leave(second)
    socket.send(second, line("b"))
    socket.connection.finish_takeover(first)  # whose time is over: the second one's is not
    socket.send(second, line("c"))
    third = socket.worker()
    socket.send(third, ACCEPT, line("d"))
    socket.connection.handle_end(second, "returned")
    assert socket.received == ["a", "b", "c", "d"]


def test_a_departing_worker_may_send_messages_but_decides_nothing_after_the_takeover(socket):
    first = socket.accepted()
    socket.connection.handle_leave(first)
    second = socket.worker()
    socket.connection.handle_note(first, b"still the first's")
    socket.send(second, ACCEPT)
    socket.connection.handle_note(second, b"second")
    socket.connection.handle_note(first, b"too late")
    socket.send(first, {"type": "websocket.close", "code": 1000})
    socket.connection.handle_end(first, "returned")
    third = socket.connection.assign(9)
    opening = socket.connection.opening(third, "here!1", None)
    assert opening["scope"]["extensions"]["websocket.resume"]["note"] == b"second"
    assert socket.connection.output.next() is None


def test_a_departing_worker_without_successor_is_told_that_the_peer_is_gone(socket):
    """So that it can inform the rooms."""
    first = socket.accepted()
    socket.connection.handle_leave(first)
    second = socket.connection.assign(9)
    socket.connection.withdraw(second, 503, CloseCode.TRY_AGAIN_LATER, "No worker has room")
    socket.connection.release()
    assert sent(first) == [[RELEASE, False]]


def test_a_worker_that_was_succeeded_is_not_told_that_the_peer_is_gone(socket):
    """Else both workers would inform the rooms, and handle the peer's last event."""
    first = socket.accepted()
    socket.connection.handle_leave(first)
    socket.send(socket.worker(), ACCEPT)
    socket.connection.release()
    assert sent(first) == [[RELEASE, True]]
    assert sent(first, EVENT) == []


def test_output_of_a_successor_that_has_died_is_delivered(socket):
    first = socket.accepted()
    socket.connection.handle_leave(first)
    second = socket.worker()
    socket.send(second, ACCEPT, line("a"))
    assert socket.connection.handle_worker_death(second)
    assert socket.received == ["a"]


@pytest.mark.parametrize("how", ["leaves", "fails"])
def test_a_successor_that_has_not_accepted_silences_nobody(socket, how):
    first = socket.accepted()
    socket.connection.handle_leave(first)
    second = socket.worker()
    if how == "leaves":
        assert socket.connection.handle_leave(second)
        socket.worker()
    else:
        socket.connection.handle_end(second, FAILED)
        assert socket.connection.closed
    socket.connection.release()
    assert sent(first) == [[RELEASE, False]]


def test_a_successor_that_refuses_ends_the_connection_and_the_worker_that_leaves(socket):
    first = socket.accepted()
    socket.connection.handle_leave(first)
    second = socket.worker()
    socket.send(second, {"type": "websocket.close"})
    assert socket.connection.output.next().event == {"type": "websocket.close", "code": 1012}
    assert sent(first) == [[RELEASE, True]]
    socket.connection.handle_end(second, "returned")
    assert socket.connection.closed


def test_the_close_of_a_worker_that_leaves_keeps_its_code(socket):
    """It has accepted, although it is a successor itself."""
    socket.connection.handle_worker_death(socket.accepted())
    second = socket.worker()
    socket.send(second, ACCEPT)
    socket.connection.handle_leave(second)
    socket.send(second, {"type": "websocket.close"})
    assert socket.connection.output.next().event == {"type": "websocket.close"}
    assert sent(second) == []


def test_a_socket_that_no_worker_has_accepted_continues_when_its_worker_leaves(socket):
    assert socket.connection.handle_leave(socket.worker())
    socket.accepted()
    assert socket.connection.output.next() is None


def lines(count: int) -> list[dict[str, str]]:
    return [line(str(number)) for number in range(count)]


def test_a_departing_worker_gets_window_updates_until_its_successor_is_heard(socket):
    """Else its window is used up, and it can send nothing more."""
    first = socket.accepted()
    socket.connection.handle_leave(first)
    second = socket.worker()
    socket.send(first, *lines(64))
    assert sum(events for _, events, _ in sent(first, WINDOW_UPDATE)) == 64
    socket.send(second, ACCEPT)
    socket.send(first, *lines(32))
    socket.send(second, *lines(32))
    assert sum(events for _, events, _ in sent(first, WINDOW_UPDATE)) == 96
    assert sent(second, WINDOW_UPDATE) == []
    socket.connection.handle_end(first, "returned")
    assert sent(second, WINDOW_UPDATE) == [[WINDOW_UPDATE, 32, 32 * 64]]


def test_output_of_one_worker_that_the_peer_reads_is_not_credited_to_the_next(socket):
    first = socket.accepted()
    socket.reads = False
    socket.send(first, *lines(40))
    socket.connection.handle_worker_death(first)
    second = socket.worker()
    socket.send(second, ACCEPT, *lines(40))
    output = socket.connection.output
    for _ in range(40):
        output.written(output.next())
    assert sent(second, WINDOW_UPDATE) == []
    for _ in range(40):
        output.written(output.next())
    assert sent(second, WINDOW_UPDATE) != []


def test_events_are_kept_until_they_are_consumed_and_then_offered_to_the_next_worker(socket):
    first = socket.accepted()
    for text in "ab":
        socket.connection.receive_from_peer({"type": "websocket.receive", "text": text})
    assert [event["text"] for _, event in sent(first, EVENT)] == ["a", "b"]
    socket.connection.handle_window_update(first, 2, 2 * 65)  # the connect, and "a"
    socket.connection.handle_worker_death(first)
    second = socket.connection.assign(9)
    opening = socket.connection.opening(second, "here!1", None)
    assert [event["text"] for event in opening["events"]] == ["b"]
    assert (opening["number"], opening["resumes"]) == (3, True)


def test_an_event_that_kills_two_workers_is_not_delivered_again(socket):
    socket.connection.receive_from_peer({"type": "websocket.receive", "text": "fatal"})
    assert socket.connection.handle_worker_death(socket.accepted())
    assert not socket.connection.handle_worker_death(socket.worker())
    write = socket.connection.output.next()
    assert (write.event["type"], write.event["code"]) == ("websocket.close", 1012)
