"""The core against a simple model, and its rules one by one."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gredis.messages import Kind, Message
from gredis.router import Router

GROUPS = st.sampled_from(["red", "green", "blue"])
LOCALS = st.sampled_from(["1", "2", "3", "4"])


def wire(kind: Kind, name: str, body: bytes = b"body") -> bytes:
    return Message(kind, name, body).encode()


def test_a_unicast_reaches_its_local_and_nobody_else():
    crossbar, one, two = Router(), [], []
    address = crossbar.add(one.append)
    crossbar.add(two.append)
    crossbar.deliver(wire(Kind.UNICAST, address.local))
    assert (one, two) == ([b"body"], [])


def test_a_letter_for_nobody_is_counted():
    crossbar = Router()
    crossbar.deliver(wire(Kind.UNICAST, "nobody"))
    crossbar.deliver(wire(Kind.MULTICAST, "nobody"))
    crossbar.deliver(wire(Kind.ANYCAST, "nobody"))
    assert (crossbar.counters.received, crossbar.counters.dropped) == (3, 3)


def test_room_goes_down_with_each_letter_and_up_when_it_is_given_back():
    crossbar, got = Router(), []
    crossbar.consume("http", got.append, 2)
    crossbar.deliver(wire(Kind.ANYCAST, "http"))
    assert crossbar.registration().queues == {"http": 1}
    crossbar.task_done("http")
    assert crossbar.registration().queues == {"http": 2}


def test_watchers_are_told_once_that_a_process_is_dead():
    crossbar, told = Router(), []
    crossbar.watch("other", told.append)
    crossbar.deliver(wire(Kind.GONE, "other", b""))
    crossbar.on_process_gone("other")
    assert told == ["other"]


def test_who_no_longer_watches_is_not_told():
    crossbar, told = Router(), []
    crossbar.watch("other", told.append)
    crossbar.unwatch("other", told.append)
    crossbar.on_process_gone("other")
    assert told == []


def test_after_a_flush_nobody_is_in_any_group():
    crossbar, got = Router(), []
    crossbar.join("red", crossbar.add(got.append).local)
    crossbar.deliver(wire(Kind.FLUSH, "", b""))
    crossbar.deliver(wire(Kind.MULTICAST, "red"))
    assert got == []
    assert crossbar.registration().groups == []


class CrossbarModel(RuleBasedStateMachine):
    """Memberships as a plain set of pairs: what the crossbar says must follow from it."""

    def __init__(self):
        super().__init__()
        self.crossbar = Router()
        self.members = set()
        self.got = {}
        for local in "1234":
            self._add(local)

    def _add(self, local):
        self.got[local] = 0

        def receive(body, local=local):
            self.got[local] += 1

        self.crossbar.add(receive, local)

    @rule(group=GROUPS, local=LOCALS)
    def join(self, group, local):
        first = not any(member[0] == group for member in self.members)
        assert self.crossbar.join(group, local) is first
        self.members.add((group, local))

    @rule(group=GROUPS, local=LOCALS)
    def leave(self, group, local):
        was = (group, local) in self.members
        self.members.discard((group, local))
        last = was and not any(member[0] == group for member in self.members)
        assert self.crossbar.leave(group, local) is last

    @rule(local=LOCALS)
    def remove(self, local):
        groups = {group for group, member in self.members if member == local}
        self.members = {member for member in self.members if member[1] != local}
        left = {group for group in groups if not any(m[0] == group for m in self.members)}
        assert set(self.crossbar.remove(local)) == left
        self._add(local)

    @rule(group=GROUPS)
    def multicast(self, group):
        before = dict(self.got)
        self.crossbar.deliver(wire(Kind.MULTICAST, group))
        for local in self.got:
            assert self.got[local] - before[local] == ((group, local) in self.members)

    @invariant()
    def groups_with_members_are_announced(self):
        wanted = {group for group, _ in self.members}
        assert set(self.crossbar.registration().groups) == wanted
        assert all(self.crossbar.has_members(group) for group in wanted)


TestCrossbarModel = CrossbarModel.TestCase
