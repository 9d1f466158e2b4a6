"""The figures, read from a real Redis."""

from __future__ import annotations

from gredis import status
from gredis.drivers.gevent import GeventCrossbar
from tests.gredis.drivers.test_gevent import crossbar

__all__ = ["crossbar"]


def furnish(one: GeventCrossbar) -> None:
    """A group, a queue with room, a queue where a message waits, a dropped message."""
    local = one.mailbox().address.local
    one.join("room", local).get()
    one.consume("http", lambda body: None, 7).get()
    one.anycast("jobs", "a job")
    full = GeventCrossbar(one.connections[0].location.display_url, capacity=0)
    full.multicast("room", "dropped")
    full.close()


def check(figures: status.Figures, one: GeventCrossbar) -> None:
    (inbox,) = figures.inboxes
    assert (inbox.name, inbox.present, inbox.total, inbox.dropped) == (one.inbox, True, 1, 1)
    queues = {queue.name: queue for queue in figures.queues}
    assert (queues["http"].consumers, queues["http"].room, queues["http"].waiting) == (1, 7, 0)
    assert (queues["jobs"].consumers, queues["jobs"].waiting) == (0, 1)
    assert 0 <= queues["jobs"].age < 10_000
    assert figures.groups == [status.GroupFigures("room", 1)]


def test_the_figures_say_what_there_is(crossbar):
    one = crossbar()
    furnish(one)
    check(status.read_from(one_more := crossbar()), one)
    one_more.close()
    check(status.read(one.connections[0].location.display_url), one)


def test_the_figures_for_prometheus_are_of_this_process_and_of_all_queues(crossbar):
    one = crossbar()
    furnish(one)
    found = {name: values for name, _, _, values in status.metrics(one)}
    assert found["gredis_messages_received_total"] == {"": one.router.counters.received}
    assert found["gredis_queue_waiting"] == {'queue="http"': 0, 'queue="jobs"': 1}
