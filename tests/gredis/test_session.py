"""Sessions and the hub, without any I/O: bytes go from one to the other when the test says so, and
are lost when it says so. Whatever happens in between, what was accepted arrives once and in order.
"""

from __future__ import annotations

from itertools import islice

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gredis.carriers.tcp import TcpCarrier
from gredis.hub.state import Hub, HubConnection
from gredis.messages import Kind, Message, pack, unpack
from gredis.router import Router
from gredis.session import Session, pauses


class Reply:
    """A future for callers that do not wait."""

    def __init__(self):
        self.value = self.error = None

    def done(self):
        return self.value is not None or self.error is not None

    def set_result(self, value):
        self.value = value

    def set_exception(self, error):
        self.error = error


class Process:
    """One process with its wire to the hub; both directions hold bytes that are on their way."""

    def __init__(self, hub: Hub, *, capacity: int = 10_000) -> None:
        self.hub = hub
        self.capacity = capacity
        self.router = Router()
        self.absent: list[str] = []
        self.lost: list[int | None] = []
        self.router.watch_losses(self.lost.append)
        self.session = Session(
            self.router,
            TcpCarrier(self.router.inbox),
            new_reply=Reply,
            wake=lambda: None,
            on_absent=self.absent.append,
            capacity=capacity,
        )
        self.got: dict[str, list[object]] = {}
        self.connect()

    def connect(self) -> None:
        self.outgoing, self.incoming = bytearray(), bytearray()
        self.served = HubConnection(self.hub, self.incoming.extend)
        self.session.connected()

    def cut(self) -> None:
        """Lose the connection and what is on its way in both directions."""
        self.session.disconnected()
        self.served.close()
        self.connect()

    def write(self) -> None:
        while gathered := self.session.to_send():
            self.outgoing += gathered

    def to_hub(self, count: int) -> None:
        """Deliver that many bytes to the hub."""
        piece = bytes(self.outgoing[:count])
        del self.outgoing[:count]
        self.served.receive(piece)

    def from_hub(self, count: int) -> None:
        piece = bytes(self.incoming[:count])
        del self.incoming[:count]
        self.session.receive(piece)

    def settle(self) -> bool:
        """Deliver everything under way. Return whether there was something."""
        self.write()
        moved = bool(self.outgoing or self.incoming)
        self.to_hub(len(self.outgoing))
        self.from_hub(len(self.incoming))
        return moved

    def receiver(self, name: str):
        self.got[name] = []
        return self.router.add(lambda body: self.got[name].append(unpack(body)))

    def unicast(self, address, body, capacity=None):
        wire = Message(Kind.UNICAST, address.local, pack(body)).encode()
        room = self.capacity if capacity is None else capacity
        return self.session.call("unicast", address.inbox, wire, room)

    def multicast(self, group, body):
        wire = Message(Kind.MULTICAST, group, pack(body)).encode()
        return self.session.call("multicast", group, wire, self.capacity)


def settle(*processes: Process) -> None:
    while any(process.settle() for process in processes):
        pass


COUNTS = st.integers(1, 400)
WHICH = st.sampled_from([0, 1])


class CutConnections(RuleBasedStateMachine):
    """Two processes that send to each other over wires that are cut at any byte."""

    def __init__(self):
        super().__init__()
        hub = Hub(lambda: 0)
        self.processes = [Process(hub), Process(hub)]
        self.direct = [process.receiver("direct") for process in self.processes]
        self.sent = [{"direct": [], "room": []}, {"direct": [], "room": []}]  # by sender
        for process in self.processes:
            member = process.receiver("room")
            process.router.join("room", member.local)
            process.session.call("join", "room")
        settle(*self.processes)

    @rule(which=WHICH)
    def unicast(self, which):
        number = len(self.sent[which]["direct"])
        self.sent[which]["direct"].append(number)
        self.processes[which].unicast(self.direct[1 - which], number)

    @rule(which=WHICH)
    def multicast(self, which):
        number = len(self.sent[which]["room"])
        self.sent[which]["room"].append(number)
        self.processes[which].multicast("room", [which, number])

    @rule(which=WHICH)
    def write(self, which):
        self.processes[which].write()

    @rule(which=WHICH, count=COUNTS)
    def some_bytes_reach_the_hub(self, which, count):
        self.processes[which].to_hub(count)

    @rule(which=WHICH, count=COUNTS)
    def some_bytes_come_back(self, which, count):
        self.processes[which].from_hub(count)

    @rule(which=WHICH)
    def cut(self, which):
        self.processes[which].cut()

    @rule()
    def all_settles(self):
        settle(*self.processes)
        for which, process in enumerate(self.processes):
            assert process.got["direct"] == self.sent[1 - which]["direct"]
            for sender in (0, 1):
                numbers = [number for who, number in process.got["room"] if who == sender]
                assert numbers == self.sent[sender]["room"]

    @invariant()
    def nothing_is_repeated_or_out_of_order(self):
        for which, process in enumerate(self.processes):
            got = process.got["direct"]
            assert got == self.sent[1 - which]["direct"][: len(got)]
            assert process.lost == []

    def teardown(self):
        self.all_settles()


TestCutConnections = CutConnections.TestCase
TestCutConnections.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


def test_dropped_messages_are_known_by_their_numbers():
    hub = Hub(lambda: 0)
    sender, slow = Process(hub, capacity=4), Process(hub, capacity=4)
    member = slow.receiver("room")
    slow.router.join("room", member.local)
    slow.session.call("join", "room")
    settle(sender, slow)
    replies = [sender.multicast("room", number) for number in range(6)]
    sender.settle(), sender.settle()
    assert [reply.value[:2] for reply in replies] == [[1, 0]] * 4 + [[0, 1]] * 2
    settle(sender, slow)
    assert slow.got["room"] == [0, 1, 2, 3]
    assert slow.lost == [2]
    sender.multicast("room", "again")
    settle(sender, slow)
    assert slow.got["room"][-1] == "again"
    assert slow.lost == [2]


def test_after_a_restart_numbers_continue_and_messages_sent_meanwhile_are_kept():
    sender, receiver = Process(Hub(lambda: 0)), Process(Hub(lambda: 0))
    receiver.hub = sender.hub
    receiver.cut()
    address = receiver.receiver("direct")
    settle(sender, receiver)
    for number in range(3):
        sender.unicast(address, number)
    settle(sender, receiver)
    sender.hub = receiver.hub = Hub(lambda: 0)  # empty
    sender.cut()
    reply = sender.unicast(address, 3)
    settle(sender)
    assert reply.value == b"ABSENT"
    assert sender.absent == [receiver.router.inbox]
    receiver.cut()
    settle(receiver)
    sender.unicast(address, 4)
    settle(sender, receiver)
    assert receiver.got["direct"] == [0, 1, 2, 3, 4]
    assert receiver.lost == [None]


def test_calls_that_were_given_up_are_not_sent_again():
    hub = Hub(lambda: 0)
    sender, receiver = Process(hub), Process(hub)
    address = receiver.receiver("direct")
    settle(sender, receiver)
    sender.unicast(address, "given up").set_exception(TimeoutError())
    sender.write()
    sender.cut()
    sender.unicast(address, "later")
    settle(sender, receiver)
    assert receiver.got["direct"] == ["later"]


def test_a_call_that_reaches_the_hub_on_the_old_connection_and_again_is_carried_out_once():
    hub = Hub(lambda: 0)
    sender, receiver = Process(hub), Process(hub)
    address = receiver.receiver("direct")
    settle(sender, receiver)
    reply = sender.unicast(address, "once")
    sender.write()
    late, old = bytes(sender.outgoing), sender.served
    sender.cut()
    sender.write()
    sender.to_hub(len(sender.outgoing))  # the new connection is announced
    old.receive(late)
    settle(sender, receiver)
    assert receiver.got["direct"] == ["once"]
    assert reply.value == b"OK"


def test_messages_pushed_while_missed_ones_are_fetched_stay_in_order():
    hub = Hub(lambda: 0)
    sender, receiver = Process(hub), Process(hub)
    address = receiver.receiver("direct")
    settle(sender, receiver)
    receiver.cut()
    receiver.served.close()  # not connected when the first one comes
    sender.unicast(address, "missed")
    settle(sender)
    receiver.connect()
    receiver.write()
    receiver.to_hub(len(receiver.outgoing))  # announced; has not fetched yet
    sender.unicast(address, "pushed")
    settle(sender)
    receiver.from_hub(len(receiver.incoming))
    assert receiver.got["direct"] == []
    settle(receiver)
    assert receiver.got["direct"] == ["missed", "pushed"]
    assert receiver.lost == []


def test_a_process_that_reconnects_in_between_is_not_evicted():
    clock = [1000]
    hub = Hub(lambda: clock[0])
    sender, receiver = Process(hub), Process(hub)
    dead: list[str] = []
    inbox = receiver.router.inbox
    sender.router.watch(inbox, dead.append)
    address = receiver.receiver("direct")
    settle(sender, receiver)
    receiver.served.close()
    sender.unicast(address, 1)
    settle(sender)
    assert sender.absent == [inbox]
    clock[0] += 400
    receiver.cut()
    settle(receiver)
    receiver.served.close()
    clock[0] += 100
    sender.session.probe(inbox)
    settle(sender)
    assert (sender.absent, dead) == ([inbox, inbox], [])
    clock[0] += 500
    sender.session.probe(inbox)
    settle(sender)
    assert dead == [inbox]


def test_an_evicted_process_learns_of_its_loss_once_even_if_the_first_reply_is_lost():
    clock = [1000]
    hub = Hub(lambda: clock[0])
    sender, receiver = Process(hub), Process(hub)
    member = receiver.receiver("room")
    receiver.router.join("room", member.local)
    receiver.session.call("join", "room")
    settle(sender, receiver)
    receiver.served.close()
    sender.unicast(member, "kept")
    settle(sender)
    clock[0] += 500
    sender.session.probe(receiver.router.inbox)
    missed = sender.multicast("room", "missed")
    settle(sender)
    assert missed.value == [0, 0]
    receiver.cut()
    receiver.write()
    receiver.to_hub(len(receiver.outgoing))
    for _ in range(2):
        receiver.cut()  # what answers the announcement is lost, the first time
        settle(receiver)
    sender.multicast("room", "line")
    settle(sender, receiver)
    assert receiver.got["room"] == ["kept", "line"]
    assert receiver.lost == [None]


def test_a_host_that_is_back_is_found_within_a_fifth_of_a_second_whenever_it_comes_back():
    assert max(islice(pauses(), 1000)) <= 0.2
