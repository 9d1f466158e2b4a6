"""The crossbar on real servers, through gevent: several processes' ends in one test process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import gevent
import pytest
import redis

import gredis.client
import gredis.session
from gredis.drivers.gevent import GeventCrossbar, GeventMailbox
from gredis.errors import Closed, Full, Gone, RedisRefused, Unreachable
from gredis.names import Address
from gredis.session import GRACE
from tests.conftest import RedisServer

Open = Callable[..., GeventCrossbar]
DEADLINE = 60  # s for one test: much more than it takes, also where a machine stands still


@pytest.fixture
def crossbar(redis_server: RedisServer) -> Iterator[Open]:
    """Opens crossbars, one per "process", and closes them."""
    opened: list[GeventCrossbar] = []

    def open_one(**options: object) -> GeventCrossbar:
        opened.append(GeventCrossbar(redis_server.url, **options))
        opened[-1].open()
        return opened[-1]

    with gevent.Timeout(DEADLINE):
        yield open_one
        for one in opened:
            one.close()


@pytest.fixture
def looking_in(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url, protocol=3) as connection:
        yield connection


def die(crossbar: GeventCrossbar) -> None:
    """Close the connections without deregistering, as `kill -9` does."""
    crossbar.abort()


FORGETFUL = """
import sys
from gredis.drivers.gevent import connect
connect(sys.argv[1]).open()
"""


def test_a_process_that_exits_without_closing_deregisters(redis_server, looking_in):
    command = [sys.executable, "-W", "error", "-c", FORGETFUL, redis_server.url]
    assert subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE).stderr == ""
    assert looking_in.keys("*") == []


def test_a_unicast_reaches_one_mailbox(crossbar):
    ann, ben = crossbar(), crossbar()
    mailbox, other = ben.mailbox(), ben.mailbox()
    ann.unicast(mailbox.address, {"text": "hé", "bytes": b"\0\xff"})
    ann.unicast(other.address, "for the other")
    assert mailbox.get() == {"text": "hé", "bytes": b"\0\xff"}
    assert other.get() == "for the other"


def test_an_anycast_reaches_exactly_one_taker_the_one_with_most_room(crossbar):
    got: list[str] = []
    one, two, sender = crossbar(), crossbar(), crossbar()
    one.consume("work", lambda body: got.append("one"), 3).get()
    two.consume("work", lambda body: got.append("two"), 1).get()
    takers = [sender.anycast_soon("work", number).get().decode() for number in range(4)]
    assert sorted(takers) == sorted([one.inbox] * 3 + [two.inbox])


def test_a_message_waits_in_its_queue_until_a_consumer_has_room(crossbar):
    sender, taker = crossbar(), crossbar()
    got: list[bytes] = []
    assert sender.anycast_soon("work", 1).get() == b"WAITING"
    taker.consume("work", got.append, 1).get()
    assert sender.anycast_soon("work", 2).get() == b"WAITING"
    while len(got) < 1:
        gevent.sleep(0)
    assert taker.task_done("work").get() == 1
    while len(got) < 2:
        gevent.sleep(0)
    assert got == [b"\x01", b"\x02"]


def test_a_full_queue_refuses(crossbar):
    sender = crossbar()
    assert sender.anycast_packed("work", b"1", capacity=1).get() == b"WAITING"
    assert sender.anycast_packed("work", b"2", capacity=1).get() == b"FULL"


def test_a_full_inbox_refuses(crossbar):
    sender, slow = crossbar(capacity=0), crossbar()
    with pytest.raises(Full, match="is full"):
        sender.unicast(slow.mailbox().address, "x")


def test_a_multicast_costs_one_message_per_process_whatever_the_members(crossbar, looking_in):
    sender, one, two = crossbar(), crossbar(), crossbar()
    members: list[GeventMailbox] = [process.mailbox() for process in (one, two) for _ in range(50)]
    for process, mailbox in zip([one] * 50 + [two] * 50, members, strict=True):
        if (joined := process.join("room", mailbox.address.local)) is not None:
            joined.get()
    looking_in.config_resetstat()
    assert sender.multicast("room", "line") == (2, 0)
    assert looking_in.info("commandstats")["cmdstat_xadd"]["calls"] == 2
    assert {mailbox.get() for mailbox in members} == {"line"}


def test_a_member_that_left_receives_nothing_and_redis_forgets_the_group(crossbar, looking_in):
    process = crossbar()
    mailbox = process.mailbox()
    process.join("room", mailbox.address.local).get()
    process.leave("room", mailbox.address.local).get()
    assert process.multicast("room", "line") == (0, 0)
    assert not looking_in.exists("gredis:group:room")


def test_messages_of_one_sender_arrive_in_order(crossbar):
    sender, receiver = crossbar(), crossbar()
    mailbox = receiver.mailbox()
    replies = [sender.unicast_soon(mailbox.address, number) for number in range(3000)]
    assert [mailbox.get() for _ in replies] == list(range(3000))


def test_calls_that_happen_together_travel_together(crossbar, looking_in):
    sender, receiver = crossbar(), crossbar()
    mailbox = receiver.mailbox()
    session, written = sender.connections[0].session, []
    to_send = session.to_send

    def counted() -> bytes:
        gathered = to_send()
        written.append(gathered.count(b"EVALSHA"))
        return gathered

    session.to_send = counted
    gevent.joinall([gevent.spawn(sender.unicast, mailbox.address, n) for n in range(300)])
    assert sum(written) == 300
    assert len([number for number in written if number]) <= 3


def test_a_process_needs_one_connection_however_much_it_does(crossbar, looking_in):
    process = crossbar()
    for number in range(200):
        process.join(f"room-{number}", process.mailbox().address.local).get()
    process.consume("work", lambda body: None, 5).get()
    process.multicast("room-7", "line")
    assert len(looking_in.client_list()) == 1 + 1  # and the one that looks in


def commands_called(looking_in) -> dict[str, int]:
    """Return the calls of each command since the last reset, including those of scripts."""
    stats = looking_in.info("commandstats").items()
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats}


def test_a_message_sent_and_received_costs_one_command(crossbar, looking_in):
    sender, receiver = crossbar(), crossbar()
    mailbox = receiver.mailbox()
    looking_in.config_resetstat()
    for number in range(10):
        sender.unicast(mailbox.address, number)
        assert mailbox.get() == number
    calls = commands_called(looking_in)
    assert calls["evalsha"] == 10
    assert {"xread", "xrange", "subscribe"} & calls.keys() == set()


def test_nothing_is_left_in_redis_when_all_have_gone(crossbar, looking_in):
    one, two = crossbar(), crossbar()
    mailbox = one.mailbox()
    one.join("room", mailbox.address.local).get()
    one.consume("work", lambda body: None, 5).get()
    two.unicast(mailbox.address, "x")
    one.close()
    two.close()
    assert looking_in.keys() == []
    assert len(looking_in.client_list()) == 1


def test_waiting_ends_with_an_error_when_the_crossbar_closes(crossbar):
    process = crossbar()
    process.close()
    with pytest.raises(Closed):
        process.multicast("room", "line")


# -- when something dies


def test_the_watcher_of_a_killed_process_is_notified_after_one_message(crossbar):
    server, worker = crossbar(), crossbar()
    mailbox = server.mailbox()
    mailbox.watch(worker.inbox)
    die(worker)
    server.unicast(Address(worker.inbox, "1"), "anybody there?")
    with pytest.raises(Gone, match=worker.inbox):
        mailbox.get()


def test_no_timer_outlives_a_closed_crossbar(crossbar, monkeypatch):
    sender, dead = crossbar(), crossbar()
    later, timers = sender.call_later, []

    def kept(seconds: float, function: Callable[[], None]) -> gevent.Greenlet:
        timers.append(later(seconds, function))
        return timers[-1]

    monkeypatch.setattr(sender, "call_later", kept)
    address = dead.mailbox().address
    die(dead)
    while not timers:  # until Redis has noticed, and the sender suspects
        sender.unicast(address, "x")
    sender.close()
    assert [timer.dead for timer in timers] == [True]


def test_a_new_process_finds_the_dead_and_all_are_notified(crossbar, looking_in):
    server, worker = crossbar(), crossbar()
    mailbox = server.mailbox()
    mailbox.watch(worker.inbox)
    worker.join("room", worker.mailbox().address.local).get()
    worker.consume("work", lambda body: None, 5).get()
    die(worker)
    crossbar()
    with pytest.raises(Gone):
        mailbox.get()
    assert not looking_in.exists("gredis:group:room", "gredis:queue:work")
    assert worker.inbox.encode() not in looking_in.smembers("gredis:known")
    assert 0 < looking_in.ttl(f"gredis:entries:{worker.inbox}") <= 60


def test_work_goes_to_the_living(crossbar):
    dead, alive, sender = crossbar(), crossbar(), crossbar()
    dead.consume("work", lambda body: None, 100).get()
    alive.consume("work", lambda body: None, 2).get()
    die(dead)
    assert sender.anycast_soon("work", 1).get().decode() == alive.inbox


def test_connections_killed_under_load_lose_and_repeat_nothing(crossbar, looking_in, monkeypatch):
    for module in (
        gredis.client,
        gredis.session,
    ):  # a process that stands still must not be evicted
        monkeypatch.setattr(module, "GRACE", DEADLINE)
    sender, receiver = crossbar(), crossbar()
    mailbox = receiver.mailbox()
    killed = 0

    def send() -> None:
        number = 0
        while number < 2000 or killed < 50:
            sender.unicast(mailbox.address, number)
            number += 1
        sender.unicast(mailbox.address, "end")

    sending = gevent.spawn(send)
    got: list[object] = []
    while not got or got[-1] != "end":
        got.append(mailbox.get())
        if len(got) % 50 == 0:
            me = looking_in.client_id()
            for client in looking_in.client_list():
                if int(client["id"]) != me:
                    killed += looking_in.client_kill_filter(_id=client["id"])
    sending.get()
    assert got == [*range(len(got) - 1), "end"]
    assert killed >= 50


def test_a_process_that_was_only_cut_off_is_not_evicted(crossbar, looking_in):
    server, worker = crossbar(), crossbar()
    mailbox, theirs = server.mailbox(), worker.mailbox()
    mailbox.watch(worker.inbox)
    me = looking_in.client_id()
    for client in looking_in.client_list():
        if int(client["id"]) != me:
            looking_in.client_kill_filter(_id=client["id"])
    server.unicast(theirs.address, "still there?")
    assert theirs.get() == "still there?"
    with gevent.Timeout(GRACE + 0.3, False):
        pytest.fail(f"got {mailbox.get()}")
    worker.unicast(mailbox.address, "yes")
    assert mailbox.get() == "yes"


def test_rooms_work_again_after_redis_comes_back_empty(crossbar, redis_server):
    sender, member = crossbar(), crossbar()
    mailbox = member.mailbox()
    member.join("room", mailbox.address.local).get()
    taken: list[bytes] = []
    member.consume("work", taken.append, 5).get()
    redis_server.kill()
    redis_server.start()
    while sender.multicast("room", "line") != (1, 0):
        gevent.sleep(0.01)
    assert mailbox.get() == "line"
    sender.anycast("work", 1)
    while not taken:
        gevent.sleep(0)


def test_callers_wait_for_redis_and_time_out_when_it_does_not_come_back(crossbar, redis_server):
    process = crossbar()
    redis_server.kill()
    process.timeout = 0.2  # for the one that must fail
    with pytest.raises(Unreachable, match=r"no answer from unix:.* for 0.2 s"):
        process.multicast("room", "line")
    redis_server.start()
    process.timeout = DEADLINE
    process.multicast("room", "line")


def test_an_error_of_redis_reaches_the_caller(crossbar, looking_in):
    process = crossbar()
    looking_in.set("gredis:group:room", "not a set")
    with pytest.raises(RedisRefused, match="multicast"):
        process.multicast("room", "line")
    looking_in.delete("gredis:group:room")
    assert process.multicast("room", "line") == (0, 0)


def test_a_process_that_was_busy_has_its_whole_timeout():
    """The hub's clock stands still meanwhile; a timer set then must know what time it is."""
    passed = []

    def busy_process():  # a thread, because a hub that has never run cannot be had twice in one
        hub = gevent.get_hub()
        crossbar = GeventCrossbar("unix:///nowhere")
        time.sleep(0.7)  # nothing is patched: the hub does not run
        began = time.monotonic()
        done = gevent.event.Event()
        crossbar.call_later(0.5, done.set)
        done.wait()
        passed.append(time.monotonic() - began)
        hub.destroy()

    thread = threading.Thread(target=busy_process)
    thread.start()
    thread.join()
    assert passed[0] >= 0.5
