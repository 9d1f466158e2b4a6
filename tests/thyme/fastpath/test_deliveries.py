"""Which greenlet brings what is due: one for all, and another one as soon as it has to wait."""

from __future__ import annotations

from socket import socketpair

import gevent
import pytest
from gevent.event import Event

from thyme.fastpath import deliveries as module
from thyme.fastpath.deliveries import Deliveries
from thyme.loop.shared import close_shared_loop


@pytest.fixture(autouse=True)
def loop():
    with gevent.Timeout(30):
        yield
    close_shared_loop()


def test_calls_that_do_not_wait_share_a_greenlet_and_keep_their_order(monkeypatch):
    for turn in ("TURN_SECONDS", "SHORT_TURN_SECONDS"):
        monkeypatch.setattr(module, turn, 60.0)
    deliveries, seen, done = Deliveries(), [], Event()
    for number in range(100):
        deliveries.add(lambda number=number: seen.append((gevent.getcurrent(), number)))
    deliveries.add(done.set)
    done.wait()
    assert [number for _, number in seen] == list(range(100))
    assert len({greenlet for greenlet, _ in seen}) == 1


def test_calls_that_wait_do_so_side_by_side():
    deliveries, gate, waiting, passed = Deliveries(), Event(), [], []

    def wait() -> None:
        waiting.append(1)
        if len(waiting) == 40:
            gate.set()
        gate.wait()
        passed.append(1)

    for _ in range(40):
        deliveries.add(wait)
    while len(passed) < 40:
        gevent.sleep(0)


def test_a_call_that_waits_does_not_stop_what_becomes_due_later():
    deliveries, gate, later, ended = Deliveries(), Event(), Event(), Event()
    deliveries.add(lambda: (gate.wait(), ended.set()))
    gevent.sleep(0)
    deliveries.add(later.set)
    later.wait()
    assert not ended.is_set()
    gate.set()
    ended.wait()


def test_the_hub_has_its_turn_while_much_is_due(monkeypatch):
    monkeypatch.setattr(module, "TURN_SECONDS", 0.0)
    deliveries, seen, done = Deliveries(), [], Event()

    def again() -> None:
        if len(seen) < 100:
            deliveries.add(again)
        else:
            done.set()

    def other() -> None:
        while not done.is_set():
            seen.append(1)
            gevent.sleep(0)

    deliveries.add(again)
    gevent.spawn(other)
    done.wait()


def test_sockets_are_looked_at_while_much_is_due(monkeypatch):
    """Greenlets that follow each other at once would keep the hub from its sockets."""
    monkeypatch.setattr(module, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(module, "SHORT_TURN_SECONDS", 0.0)
    deliveries, calls, done = Deliveries(), [], Event()
    here, there = socketpair()
    with here, there:
        there.send(b"x")
        watcher = gevent.get_hub().loop.io(here.fileno(), 1)
        seen: list[int] = []
        watcher.start(lambda: seen.append(len(calls)))
        for _ in range(100):
            deliveries.add(lambda: calls.append(1))
        deliveries.add(done.set)
        done.wait()
        watcher.close()
    assert len(seen) > 50


def test_who_was_due_has_few_short_turns_and_longer_ones_then(monkeypatch):
    """Else more and more would come for those who wait, and their channels would overflow."""
    monkeypatch.setattr(module, "SHORT_TURN_SECONDS", 0.0)
    monkeypatch.setattr(module, "TURN_SECONDS", 60.0)
    deliveries, done, turns = Deliveries(), Event(), []
    for _ in range(100):
        deliveries.add(lambda: turns.append(gevent.getcurrent()))
    deliveries.add(done.set)
    done.wait()
    assert len(set(turns)) == module.SHORT_TURNS + 1


def test_what_becomes_due_in_a_call_is_called():
    deliveries, done = Deliveries(), Event()
    deliveries.add(lambda: deliveries.add(done.set))
    done.wait()
