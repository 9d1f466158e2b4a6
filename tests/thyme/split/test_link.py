"""A link, and the desks at both its ends, without any I/O: loss, repetition, gaps, and farewells.

The wire is a list in memory, where letters can be lost, repeated or refused, as by a Redis that is
killed and restarted. What is said on a link must be heard once and in order whatever happens; and
after one side has taken the other for dead, by mistake, both must agree again.
"""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gredis.messages import Kind, Message, unpack
from gredis.names import Address
from gredis.router import Router
from thyme.split.endpoint import Desk
from thyme.split.link import BATCH_BYTES, LETTER_BYTES, SEEN_BATCHES, Batch, Link
from thyme.split.wire import EVENT, NOTE


class Wire:
    """What two processes have between them, one step at a time."""

    def __init__(self) -> None:
        self.turn: deque = deque()  # functions to call at the end of this turn
        self.later: deque = deque()  # those to call some time later
        self.calls: deque = deque()  # (inbox, local, letter, reply) on their way to Redis
        self.letters: deque = deque()  # (inbox, local, letter) in Redis
        self.ends: dict[str, End] = {}

    def work(self) -> None:
        while self.turn:
            self.turn.popleft()()

    def take(self, value: bytes = b"OK", answer: bool = True) -> None:
        """Redis deals with a call; its answer may be lost with the connection: it comes again."""
        if not self.calls:
            return
        inbox, local, wire, reply = self.calls[0]
        if value == b"OK":
            self.letters.append((inbox, local, wire))
        if answer:
            self.calls.popleft()
            for function in reply:
                function(value, None)

    def deliver(self) -> None:
        if self.letters:
            inbox, local, wire = self.letters.popleft()
            self.ends[inbox].router.deliver(Message(Kind.UNICAST, local, wire).encode())

    def restart(self) -> None:
        """Redis is killed, with all that is in it, and both find it empty."""
        self.letters.clear()
        for end in self.ends.values():
            end.router.on_loss(None)

    def lose(self, end: End) -> None:
        """What is in one inbox is lost, and only its process learns of it."""
        lost = [letter for letter in self.letters if letter[0] == end.inbox]
        self.letters = deque(letter for letter in self.letters if letter[0] != end.inbox)
        end.router.on_loss(len(lost))

    def settle(self) -> None:
        """Nothing goes wrong any more."""
        for _ in range(10_000):
            if not (self.turn or self.calls or self.letters or self.later):
                return
            if self.later:
                self.later.popleft()()
            self.work()
            self.take()
            self.deliver()
        raise AssertionError("they go on for ever")


class End:
    """One process's end of the crossbar, and its desk's driver."""

    closing = False

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.router = Router()
        self.inbox = self.router.inbox
        wire.ends[self.inbox] = self

    def unicast_packed(self, address: Address, wire: bytes) -> list:
        reply: list = []
        self.wire.calls.append((address.inbox, address.local, wire, reply))
        return reply

    def call_later(self, seconds: float, function) -> None:
        self.wire.later.append(function)

    def soon(self, function) -> None:
        self.wire.turn.append(function)

    def when_done(self, reply: list, function) -> None:
        reply.append(function)


class Ear(Desk):
    """A desk that notes what it hears."""

    def __init__(self, wire: Wire) -> None:
        end = End(wire)
        super().__init__(end, end)
        self.heard: list[int] = []
        self.ended = 0

    def entry(self, link, entry) -> None:
        self.heard.append(entry[2])

    def lost(self, half, alive) -> None:
        self.ended += 1


NAMED = "say 0, say 1, work, take, deliver, full, no answer, restart, lose 0, lose 1"
FAULTS = st.sampled_from(NAMED.split(", "))


def step(wire: Wire, desks: list[Ear], said: list[list[int]], fault: str) -> None:
    """One thing happens."""
    kind, _, which = fault.partition(" ")
    if kind == "say":
        here, there = desks[int(which)], desks[1 - int(which)]
        said[int(which)].append(len(said[int(which)]))
        here.link_to(str(there.address)).say(1, NOTE, said[int(which)][-1])
    elif kind == "full":
        wire.take(b"FULL")
    elif kind == "lose":
        wire.lose(desks[int(which)].end)
    elif kind == "no":
        wire.take(answer=False)
    elif kind == "dead":
        here, there = desks[int(which)], desks[1 - int(which)]
        here.gone(there.end.inbox)
    else:
        getattr(wire, kind)()


@settings(max_examples=300, deadline=None)
@given(st.lists(FAULTS, max_size=60))
def test_what_is_said_is_heard_once_and_in_order_whatever_becomes_of_the_letters(faults):
    wire, said = Wire(), [[], []]
    desks = [Ear(wire), Ear(wire)]
    for fault in faults:
        step(wire, desks, said, fault)
    wire.settle()
    for fault in ("say 0", "say 1"):  # what was lost in silence is missed at the next word
        step(wire, desks, said, fault)
    wire.settle()
    assert [desk.heard for desk in desks] == said[::-1]
    assert all(desk.quiet for desk in desks)


@settings(max_examples=300, deadline=None)
@given(st.lists(FAULTS | st.sampled_from(["dead 0", "dead 1"]), max_size=60))
def test_who_was_taken_for_dead_by_mistake_is_understood_again(faults):
    wire, said = Wire(), [[], []]
    desks = [Ear(wire), Ear(wire)]
    for fault in faults:
        step(wire, desks, said, fault)
    wire.settle()
    for _ in range(2):  # the first words may still be for an end that is no more
        for fault in ("say 0", "say 1"):
            step(wire, desks, said, fault)
        wire.settle()
    for desk, other, words in zip(desks, desks[::-1], said[::-1], strict=True):
        assert desk.heard[-1] == words[-1]
        ours, theirs = desk.links[str(other.address)], other.links[str(desk.address)]
        assert ours.their_run == theirs.run


def test_the_first_that_is_said_to_the_living_after_a_mistake_is_that_it_was_one():
    """So that what it is given next does not go with what it had."""
    wire = Wire()
    here, there = Ear(wire), Ear(wire)
    for desk, other in ((here, there), (there, here)):
        desk.link_to(str(other.address)).say(1, NOTE, 1)
    wire.settle()
    there.links[str(here.address)].connections[1] = object()
    here.gone(there.end.inbox)
    wire.settle()
    assert there.ended == 1
    assert not there.links


# -- batches


def line(text: str) -> dict[str, str]:
    return {"type": "websocket.send", "text": text}


def told(batch: Batch) -> dict[int, list[str]]:
    """The texts of each connection, in the order of the batch."""
    found: dict[int, list[str]] = {}
    for connections, _, event, *_ in batch.entries:
        for connection in connections:
            found.setdefault(connection, []).append(event["text"])
    return found


def test_lines_for_a_room_stand_once_in_a_batch_whoever_is_told_first() -> None:
    batch = Batch()
    for connection in range(10):
        for text in ("a", "b", "a", "a"):
            batch.add_shared(connection, text, line(text), None)
    assert len(batch.entries) == 4
    assert told(batch) == {connection: ["a", "b", "a", "a"] for connection in range(10)}


def test_a_line_is_not_shared_where_that_would_change_its_place() -> None:
    batch = Batch()
    batch.add_shared(1, "a", line("a"), None)
    batch.add(2, "event", line("first"), None)
    batch.add_shared(2, "a", line("a"), None)
    assert told(batch) == {1: ["a"], 2: ["first", "a"]}


# -- one end

LINE = {"type": "websocket.send", "text": "x"}


class Post(list):
    """What a link has posted, unpacked."""

    def __call__(self, wire: bytes) -> None:
        assert len(wire) <= LETTER_BYTES
        self.append(SimpleNamespace(**dict(zip(NAMES, unpack(wire), strict=True))))


NAMES = ("version", "sender", "run", "to", "number", "seen", "entries")


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
def link(post) -> Link:
    return Link("here!1", "there!1", post, lambda function: None)


def posted_all(link: Link, post: Post) -> None:
    link.flush()
    while not link.quiet:
        link.posted()


def test_a_line_for_many_travels_once(link, post):
    for connection in (1, 2, 3):
        link.send(connection, dict(LINE), ["s", 7])
    posted_all(link, post)
    assert post[0].entries == [[[1, 2, 3], EVENT, LINE, ["s", 7]]]


def test_equal_lines_that_are_said_twice_are_not_taken_for_one(link, post):
    """One of them carries another `once`; who has heard the first must not miss the second."""
    for once in (["s", 7], ["s", 8]):
        for connection in (1, 2):
            link.send(connection, dict(LINE), once)
    posted_all(link, post)
    assert post[0].entries == [[[1, 2], EVENT, LINE, ["s", 7]], [[1, 2], EVENT, LINE, ["s", 8]]]


def test_a_line_for_many_that_come_to_it_in_their_own_time(link, post):
    for connection, number in ((1, 7), (1, 8), (2, 7), (2, 8)):
        link.send(connection, dict(LINE), ["s", number])
    posted_all(link, post)
    for connection in (1, 2):
        heard = [entry[3] for entry in post[0].entries if connection in entry[0]]
        assert heard == [["s", 7], ["s", 8]]


def test_order_on_a_connection_is_kept_when_lines_are_shared(link, post):
    link.send(1, {**LINE, "text": "a"}, None)
    link.send(2, {**LINE, "text": "b"}, None)
    link.send(2, {**LINE, "text": "a"}, None)
    link.send(1, {**LINE, "text": "b"}, None)
    posted_all(link, post)
    for connection, expected in ((1, "ab"), (2, "ba")):
        heard = [entry[2]["text"] for entry in post[0].entries if connection in entry[0]]
        assert "".join(heard) == expected


def test_what_comes_up_while_a_batch_is_posted_gathers(link, post):
    link.say(1, NOTE, b"a")
    link.flush()
    for note in (b"b", b"c"):
        link.say(1, NOTE, note)
        link.flush()
    assert [batch.number for batch in post] == [1]
    link.posted()
    assert [entry[2] for entry in post[1].entries] == [b"b", b"c"]


def test_a_large_batch_travels_in_portions(link, post):
    for connection in range(64):
        link.send(connection, {"type": "websocket.send", "bytes": bytes(60_000)}, None)
    posted_all(link, post)
    assert len(post) == -(-64 * 60_064 // BATCH_BYTES)
    assert [entry[0] for batch in post for entry in batch.entries] == [[n] for n in range(64)]


def test_a_batch_whose_entries_are_larger_than_they_seem_is_cut_to_what_a_letter_holds(link, post):
    headers = [[b"x-large", bytes(100_000)]] * 20
    for connection in range(30):  # 60 MB of headers, which nobody weighs
        link.send(connection, {"type": "http.response.start", "headers": headers}, None)
    posted_all(link, post)
    assert len(post) > 3
    assert [entry[0] for batch in post for entry in batch.entries] == [[n] for n in range(30)]


def test_what_was_seen_is_kept_no_longer(link, post):
    for number in range(10):
        link.say(1, NOTE, number)
        posted_all(link, post)
    assert len(link._kept) == 10
    assert link.hear(5, 1, 7, [], 100) == []
    assert len(link._kept) == 3


def test_a_silent_listener_tells_now_and_then_what_it_has_seen(link, post):
    for number in range(SEEN_BATCHES):
        link.hear(5, number + 1, 0, [[[1], NOTE, b""]], 100)
    posted_all(link, post)
    assert [(batch.number, batch.seen, batch.to) for batch in post] == [(0, SEEN_BATCHES, 5)]


def test_a_batch_that_comes_twice_is_heard_once(link):
    entries = [[[1], NOTE, b"a"]]
    assert link.hear(5, 1, 0, entries, 100) == entries
    assert not link.hear(5, 1, 0, entries, 100)


def test_what_is_missing_is_asked_for_once_and_nothing_is_heard_before_it(link, post):
    entries = [[[1], NOTE, b"a"]]
    for number in (1, 3, 4):
        link.hear(5, number, 0, entries, 100)
    posted_all(link, post)
    assert [(batch.number, batch.seen, batch.entries) for batch in post] == [(0, 1, None)]
    assert link.hear(5, 2, 0, entries, 100) == entries


def test_who_is_asked_says_again_what_was_not_seen_and_that_first(link, post):
    for number in range(4):
        link.say(1, NOTE, number)
        posted_all(link, post)
    link.say(1, NOTE, "new")
    link.hear(5, 0, 2, None, 100)
    posted_all(link, post)
    assert [batch.number for batch in post] == [1, 2, 3, 4, 3, 4, 5]


def test_a_link_that_is_over_posts_nothing(link, post):
    link.say(1, NOTE, b"a")
    link.over = True
    link.flush()
    assert not post
    assert link.quiet
