"""Two endpoints and the link between them, without any I/O: losses, repetition, wrong verdicts.

The network is a list in memory, where messages can be lost, repeated or refused, as by a Redis that
is killed and restarted. Whatever happens, entries must be handled once and in order; and after one
side has taken the other for dead by mistake, both must agree again.
"""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from gredis.messages import Kind, Message
from gredis.names import Address
from gredis.router import Router
from thyme.split.endpoint import Endpoint
from thyme.split.wire import NOTE


class Network:
    """What is between two processes, one step at a time."""

    def __init__(self) -> None:
        self.soon: deque = deque()  # functions to call at the end of this round
        self.later: deque = deque()  # those to call some time later
        self.calls: deque = deque()  # (inbox, local, message, reply) on their way to Redis
        self.messages: deque = deque()  # (inbox, local, message) in Redis
        self.clients: dict[str, Client] = {}

    def work(self) -> None:
        while self.soon:
            self.soon.popleft()()

    def take(self, value: bytes = b"OK", answer: bool = True) -> None:
        """Redis executes a call. Its reply may be lost with the connection: then it comes again."""
        if not self.calls:
            return
        inbox, local, wire, reply = self.calls[0]
        if value == b"OK":
            self.messages.append((inbox, local, wire))
        if answer:
            self.calls.popleft()
            for function in reply:
                function(value, None)

    def deliver(self) -> None:
        if self.messages:
            inbox, local, wire = self.messages.popleft()
            self.clients[inbox].router.deliver(Message(Kind.UNICAST, local, wire).encode())

    def restart(self) -> None:
        """Redis is killed with all its data, and both find it empty."""
        self.messages.clear()
        for client in self.clients.values():
            client.router.on_loss(None)

    def lose(self, client: Client) -> None:
        """The messages in one inbox are lost, and only its process learns of it."""
        lost = [message for message in self.messages if message[0] == client.inbox]
        self.messages = deque(each for each in self.messages if each[0] != client.inbox)
        client.router.on_loss(len(lost))

    def settle(self) -> None:
        """From now on nothing goes wrong."""
        for _ in range(10_000):
            if not (self.soon or self.calls or self.messages or self.later):
                return
            if self.later:
                self.later.popleft()()
            self.work()
            self.take()
            self.deliver()
        raise AssertionError("the endpoints never stop sending")


class Client:
    """One process's gredis client, and its endpoint's driver."""

    closing = False

    def __init__(self, network: Network) -> None:
        self.network = network
        self.router = Router()
        self.inbox = self.router.inbox
        network.clients[self.inbox] = self

    def unicast_packed(self, address: Address, wire: bytes) -> list:
        reply: list = []
        self.network.calls.append((address.inbox, address.local, wire, reply))
        return reply

    def call_later(self, seconds: float, function) -> None:
        self.network.later.append(function)

    def call_soon(self, function) -> None:
        self.network.soon.append(function)

    def when_done(self, reply: list, function) -> None:
        reply.append(function)

    def on_drained(self) -> None:
        """No-op: nothing waits for it."""


class Recorder(Endpoint):
    """An endpoint that records the entries it handles."""

    def __init__(self, network: Network) -> None:
        client = Client(network)
        super().__init__(client, client)
        self.handled: list[int] = []
        self.lost = 0

    def handle_entry(self, link, entry) -> None:
        self.handled.append(entry[2])

    def on_connection_lost(self, connection, process_alive) -> None:
        self.lost += 1


NAMED = "send 0, send 1, work, take, deliver, full, no answer, restart, lose 0, lose 1"
FAULTS = st.sampled_from(NAMED.split(", "))


def step(network: Network, endpoints: list[Recorder], sent: list[list[int]], fault: str) -> None:
    """One thing happens."""
    kind, _, which = fault.partition(" ")
    if kind == "send":
        here, there = endpoints[int(which)], endpoints[1 - int(which)]
        sent[int(which)].append(len(sent[int(which)]))
        here.link_to(str(there.address)).send(1, NOTE, sent[int(which)][-1])
    elif kind == "full":
        network.take(b"FULL")
    elif kind == "lose":
        network.lose(endpoints[int(which)].crossbar)
    elif kind == "no":
        network.take(answer=False)
    elif kind == "dead":
        here, there = endpoints[int(which)], endpoints[1 - int(which)]
        here.on_process_gone(there.inbox)
    else:
        getattr(network, kind)()


@settings(max_examples=300, deadline=None)
@given(st.lists(FAULTS, max_size=60))
def test_entries_are_handled_once_and_in_order_whatever_happens_to_the_messages(faults):
    network, sent = Network(), [[], []]
    endpoints = [Recorder(network), Recorder(network)]
    for fault in faults:
        step(network, endpoints, sent, fault)
    network.settle()
    for fault in ("send 0", "send 1"):  # a loss that nobody was told of shows at the next batch
        step(network, endpoints, sent, fault)
    network.settle()
    assert [each.handled for each in endpoints] == sent[::-1]
    assert all(each.drained for each in endpoints)


@settings(max_examples=300, deadline=None)
@given(st.lists(FAULTS | st.sampled_from(["dead 0", "dead 1"]), max_size=60))
def test_endpoints_agree_again_after_one_was_taken_for_dead_by_mistake(faults):
    network, sent = Network(), [[], []]
    endpoints = [Recorder(network), Recorder(network)]
    for fault in faults:
        step(network, endpoints, sent, fault)
    network.settle()
    for _ in range(2):  # the first batch may still be for an end that is closed
        for fault in ("send 0", "send 1"):
            step(network, endpoints, sent, fault)
        network.settle()
    for here, there, entries in zip(endpoints, endpoints[::-1], sent[::-1], strict=True):
        assert here.handled[-1] == entries[-1]
        ours, theirs = here.links[str(there.address)], there.links[str(here.address)]
        assert ours.remote_epoch == theirs.epoch


def test_a_process_that_was_taken_for_dead_is_first_told_that_its_links_are_closed():
    """So that its next connections are not mixed up with those that it has lost."""
    network = Network()
    here, there = Recorder(network), Recorder(network)
    for one, other in ((here, there), (there, here)):
        one.link_to(str(other.address)).send(1, NOTE, 1)
    network.settle()
    there.links[str(here.address)].connections[1] = object()
    here.on_process_gone(there.inbox)
    network.settle()
    assert there.lost == 1
    assert not there.links
