"""Windows: a sender never exceeds them by more than one event, and never stops for good."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thyme.split.flow_control import ReceiveWindow, SendWindow, Window, min_window


def test_both_sides_of_a_window_are_bounded_by_the_smaller_one():
    assert min_window(Window(1, 20), Window(2, 10)) == Window(1, 10)


@pytest.mark.parametrize(("events", "size"), [(4, 1), (1, 100)])
def test_a_window_is_used_up_by_events_or_by_bytes_and_opened_by_acknowledgements(events, size):
    sender = SendWindow(Window(4, 100))
    for _ in range(events):
        assert sender.open
        sender.sent(size)
    assert not sender.open
    sender.acknowledged(1, size)
    assert sender.open


@pytest.mark.parametrize(("events", "size"), [(2, 1), (1, 50)])
def test_the_receiver_acknowledges_when_half_of_the_window_is_used_up(events, size):
    receiver = ReceiveWindow(Window(4, 100))
    assert not receiver.pending_ack
    due = [receiver.consumed(size) for _ in range(events)]
    assert due == [False] * (events - 1) + [True]
    assert receiver.pending_ack
    assert receiver.take_ack() == (events, events * size)
    assert not receiver.pending_ack


@given(st.lists(st.integers(min_value=1, max_value=200)))
def test_all_events_pass_and_the_window_is_exceeded_by_one_event_at_most(sizes):
    window = Window(4, 100)
    sender, receiver = SendWindow(window), ReceiveWindow(window)
    waiting, in_transit = deque(sizes), deque()
    while waiting or in_transit:
        while waiting and sender.open:
            in_transit.append(waiting.popleft())
            sender.sent(in_transit[-1])
        assert in_transit, "the sender waits, and nothing is on its way to the receiver"
        assert len(in_transit) <= window.events
        assert sum(in_transit) - in_transit[-1] < window.bytes
        if receiver.consumed(in_transit.popleft()):
            sender.acknowledged(*receiver.take_ack())
