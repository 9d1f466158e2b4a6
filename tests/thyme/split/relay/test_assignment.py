"""One worker's assignment to a connection."""

from __future__ import annotations

from tests.thyme.split.links import RecordingLink
from thyme.split.flow_control import ReceiveWindow, Window
from thyme.split.relay.assignment import Assignment
from thyme.split.states import AssignmentTrigger

LINE = {"type": "websocket.receive", "text": "a"}


def assignment(link: RecordingLink | None = None) -> Assignment:
    made = Assignment(1, 5, False, ReceiveWindow(Window(4, 1000)))
    made.link = link
    return made


def test_the_worker_gets_a_window_update_when_half_of_the_window_is_used_up():
    link = RecordingLink()
    made = assignment(link)
    made.consumed(65)
    assert link.sent() == []
    made.consumed(65)
    assert link.sent() == [["taken", 2, 130]]


def test_events_are_numbered_in_the_order_in_which_they_are_sent():
    made = assignment(RecordingLink())
    made.send_event(LINE, 65)
    made.send_event(LINE, 65)
    assert made.next_event == 7


def test_nothing_is_sent_before_the_hello_or_after_the_link_was_closed():
    assignment().send("release", False)
    link = RecordingLink()
    link.closed = True
    assignment(link).send("release", False)
    assignment(link).send_event(LINE, 65)
    link.closed = False
    assert link.sent() == []


def test_a_worker_is_in_charge_until_it_is_released_or_has_ended():
    for trigger in (AssignmentTrigger.RELEASE, AssignmentTrigger.END):
        made = assignment()
        assert made.in_charge
        made.fire(trigger)
        assert not made.in_charge
