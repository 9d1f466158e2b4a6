"""The core against a simple model, and its rules one by one."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gredis.messages import Kind, Message
from gredis.names import Address
from gredis.router import Router

GROUPS = st.sampled_from(["red", "green", "blue"])
LOCALS = st.sampled_from(["1", "2", "3", "4"])


def wire(kind: Kind, name: str, body: bytes = b"body") -> bytes:
    return Message(kind, name, body).encode()


def test_a_unicast_reaches_its_local_and_no_other():
    router, one, two = Router(), [], []
    address = router.add(one.append)
    router.add(two.append)
    router.deliver(wire(Kind.UNICAST, address.local))
    assert (one, two) == ([b"body"], [])


def test_a_message_without_a_receiver_is_counted():
    router = Router()
    router.deliver(wire(Kind.UNICAST, "nobody"))
    router.deliver(wire(Kind.MULTICAST, "nobody"))
    router.deliver(wire(Kind.ANYCAST, "nobody"))
    assert (router.counters.received, router.counters.dropped) == (3, 3)


def test_room_shrinks_with_each_message_and_grows_when_it_is_done():
    router, got = Router(), []
    router.consume("http", got.append, 2)
    router.deliver(wire(Kind.ANYCAST, "http"))
    assert router.registration().queues == {"http": 1}
    router.task_done("http")
    assert router.registration().queues == {"http": 2}


def test_watchers_are_notified_once_that_a_process_is_dead():
    router, told = Router(), []
    router.watch("other", told.append)
    router.deliver(wire(Kind.GONE, "other", b""))
    router.on_process_gone("other")
    assert told == ["other"]


def test_a_removed_watcher_is_not_notified():
    router, told = Router(), []
    router.watch("other", told.append)
    router.unwatch("other", told.append)
    router.on_process_gone("other")
    assert told == []


def test_after_a_flush_no_group_has_members():
    router, got = Router(), []
    router.join("red", router.add(got.append).local)
    router.deliver(wire(Kind.FLUSH, "", b""))
    router.deliver(wire(Kind.MULTICAST, "red"))
    assert got == []
    assert router.registration().groups == []


def confirmed(sender: Address, group: str) -> bytes:
    return wire(Kind.CONFIRMED, f"{sender} {group}")


def test_a_message_is_confirmed_once_when_the_last_full_member_has_room():
    senders, callbacks, got = [], [], []
    router = Router(confirm=senders.append)

    def when_room(callback):
        callbacks.append(callback)
        return True

    for room in (None, when_room, lambda callback: False, when_room):
        router.join("red", router.add(got.append, when_room=room).local)
    sender = Address("other", "1")
    router.deliver(confirmed(sender, "red"))
    assert (len(got), len(callbacks), senders) == (4, 2, [])
    callbacks[0]()
    assert senders == []
    callbacks[1]()
    assert senders == [sender]


def test_a_message_without_members_is_confirmed_at_once():
    senders = []
    router = Router(confirm=senders.append)
    router.deliver(confirmed(Address("other", "1"), "empty"))
    assert senders == [Address("other", "1")]


def test_only_names_of_a_host_are_registered_with_it():
    router = Router()
    for group in ("red", "green"):
        router.join(group, router.add(print).local)
    router.consume("work", print, 3)
    assert router.registration(lambda name: name == "red").groups == ["red"]
    assert router.registration(lambda name: name == "work").queues == {"work": 3}


def test_nothing_is_left_of_a_removed_receiver_and_watcher():
    router = Router()
    address = router.add(print, when_room=lambda callback: True)
    router.watch("other", print)
    assert (router.locals, router.watched) == ({address.local}, {"other"})
    router.remove(address.local)
    router.unwatch("other", print)
    assert (router.locals, router.watched) == (frozenset(), frozenset())


class RouterModel(RuleBasedStateMachine):
    """Memberships as a plain set of pairs: what the router says must follow from it."""

    def __init__(self):
        super().__init__()
        self.router = Router()
        self.members = set()
        self.got = {}
        for local in "1234":
            self._add(local)

    def _add(self, local):
        self.got[local] = 0

        def receive(body, local=local):
            self.got[local] += 1

        self.router.add(receive, local)

    @rule(group=GROUPS, local=LOCALS)
    def join(self, group, local):
        first = not any(member[0] == group for member in self.members)
        assert self.router.join(group, local) is first
        self.members.add((group, local))

    @rule(group=GROUPS, local=LOCALS)
    def leave(self, group, local):
        was = (group, local) in self.members
        self.members.discard((group, local))
        last = was and not any(member[0] == group for member in self.members)
        assert self.router.leave(group, local) is last

    @rule(local=LOCALS)
    def remove(self, local):
        groups = {group for group, member in self.members if member == local}
        self.members = {member for member in self.members if member[1] != local}
        left = {group for group in groups if not any(m[0] == group for m in self.members)}
        assert set(self.router.remove(local)) == left
        self._add(local)

    @rule(group=GROUPS)
    def multicast(self, group):
        before = dict(self.got)
        self.router.deliver(wire(Kind.MULTICAST, group))
        for local in self.got:
            assert self.got[local] - before[local] == ((group, local) in self.members)

    @invariant()
    def groups_with_members_are_announced(self):
        wanted = {group for group, _ in self.members}
        assert set(self.router.registration().groups) == wanted
        assert all(self.router.has_members(group) for group in wanted)


TestRouterModel = RouterModel.TestCase
