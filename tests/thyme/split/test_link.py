"""One end of a link, and its batches: order, numbering, confirmation, repetition. No I/O."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gredis.messages import unpack
from thyme.split.link import BATCH_BYTES, MESSAGE_BYTES, SEEN_BATCHES, Batch, Link
from thyme.split.wire import EVENT, NOTE, event_size

# -- batches


def line(text: str) -> dict[str, str]:
    return {"type": "websocket.send", "text": text}


def texts(batch: Batch) -> dict[int, list[str]]:
    """The texts of each connection, in the order of the batch."""
    found: dict[int, list[str]] = {}
    for connections, _, event, *_ in batch.entries:
        for connection in connections:
            found.setdefault(connection, []).append(event["text"])
    return found


def test_lines_for_a_room_are_in_a_batch_once_whatever_the_order_of_its_members() -> None:
    batch = Batch()
    for connection in range(10):
        for text in ("a", "b", "a", "a"):
            batch.add_shared(connection, text, line(text), None, 65)
    assert len(batch.entries) == 4
    assert texts(batch) == {connection: ["a", "b", "a", "a"] for connection in range(10)}


def test_a_line_is_not_shared_where_that_would_change_its_place() -> None:
    batch = Batch()
    batch.add_shared(1, "a", line("a"), None, 65)
    batch.add(2, "event", line("first"), None, size=69)
    batch.add_shared(2, "a", line("a"), None, 65)
    assert texts(batch) == {1: ["a"], 2: ["first", "a"]}


# -- one end

LINE = {"type": "websocket.send", "text": "x"}


class Post(list):
    """The batches that a link has posted, unpacked."""

    def __call__(self, wire: bytes) -> None:
        assert len(wire) <= MESSAGE_BYTES
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
    while not link.drained:
        link.on_posted()


def test_a_line_for_many_travels_once(link, post):
    for connection in (1, 2, 3):
        link.send_output(connection, dict(LINE), 65, ["s", 7])
    posted_all(link, post)
    assert post[0].entries == [[[1, 2, 3], EVENT, LINE, ["s", 7]]]


def test_equal_lines_that_are_sent_twice_are_not_merged(link, post):
    """They have different "once": a peer that has received the first must get the second, too."""
    for once in (["s", 7], ["s", 8]):
        for connection in (1, 2):
            link.send_output(connection, dict(LINE), 65, once)
    posted_all(link, post)
    assert post[0].entries == [[[1, 2], EVENT, LINE, ["s", 7]], [[1, 2], EVENT, LINE, ["s", 8]]]


def test_a_line_for_many_is_in_order_for_each_whenever_it_is_sent(link, post):
    for connection, number in ((1, 7), (1, 8), (2, 7), (2, 8)):
        link.send_output(connection, dict(LINE), 65, ["s", number])
    posted_all(link, post)
    for connection in (1, 2):
        texts = [entry[3] for entry in post[0].entries if connection in entry[0]]
        assert texts == [["s", 7], ["s", 8]]


def test_order_on_a_connection_is_kept_when_lines_are_shared(link, post):
    link.send_output(1, {**LINE, "text": "a"}, 65, None)
    link.send_output(2, {**LINE, "text": "b"}, 65, None)
    link.send_output(2, {**LINE, "text": "a"}, 65, None)
    link.send_output(1, {**LINE, "text": "b"}, 65, None)
    posted_all(link, post)
    for connection, expected in ((1, "ab"), (2, "ba")):
        texts = [entry[2]["text"] for entry in post[0].entries if connection in entry[0]]
        assert "".join(texts) == expected


def test_entries_that_are_sent_while_a_batch_is_posted_travel_together(link, post):
    link.send(1, NOTE, b"a")
    link.flush()
    for note in (b"b", b"c"):
        link.send(1, NOTE, note)
        link.flush()
    assert [batch.number for batch in post] == [1]
    link.on_posted()
    assert [entry[2] for entry in post[1].entries] == [b"b", b"c"]


def test_a_large_batch_travels_in_portions(link, post):
    event = {"type": "websocket.send", "bytes": bytes(60_000)}
    for connection in range(64):
        link.send_output(connection, event, event_size(event), None)
    posted_all(link, post)
    assert len(post) == -(-64 * 60_064 // BATCH_BYTES)
    assert [entry[0] for batch in post for entry in batch.entries] == [[n] for n in range(64)]


def test_a_batch_whose_entries_are_larger_than_counted_is_split_to_fit_messages(link, post):
    headers = [[b"x-large", bytes(100_000)]] * 20
    for connection in range(30):  # 60 MB of headers, which no size includes
        link.send_output(connection, {"type": "http.response.start", "headers": headers}, 64, None)
    posted_all(link, post)
    assert len(post) > 3
    assert [entry[0] for batch in post for entry in batch.entries] == [[n] for n in range(30)]


def test_confirmed_batches_are_forgotten(link, post):
    for number in range(10):
        link.send(1, NOTE, number)
        posted_all(link, post)
    assert link.unconfirmed == 10
    assert link.receive(5, 1, 7, [], 100) == []
    assert link.unconfirmed == 3


def test_a_receiver_that_sends_nothing_confirms_now_and_then(link, post):
    for number in range(SEEN_BATCHES):
        link.receive(5, number + 1, 0, [[[1], NOTE, b""]], 100)
    posted_all(link, post)
    assert [(batch.number, batch.seen, batch.to) for batch in post] == [(0, SEEN_BATCHES, 5)]


def test_a_batch_that_arrives_twice_is_handled_once(link):
    entries = [[[1], NOTE, b"a"]]
    assert link.receive(5, 1, 0, entries, 100) == entries
    assert not link.receive(5, 1, 0, entries, 100)


def test_a_missing_batch_is_requested_once_and_none_is_handled_before_it(link, post):
    entries = [[[1], NOTE, b"a"]]
    for number in (1, 3, 4):
        link.receive(5, number, 0, entries, 100)
    posted_all(link, post)
    assert [(batch.number, batch.seen, batch.entries) for batch in post] == [(0, 1, None)]
    assert link.receive(5, 2, 0, entries, 100) == entries


def test_unconfirmed_batches_are_repeated_on_request_before_any_new_one(link, post):
    for number in range(4):
        link.send(1, NOTE, number)
        posted_all(link, post)
    link.send(1, NOTE, "new")
    link.receive(5, 0, 2, None, 100)
    posted_all(link, post)
    assert [batch.number for batch in post] == [1, 2, 3, 4, 3, 4, 5]


def test_a_closed_link_posts_nothing(link, post):
    link.send(1, NOTE, b"a")
    link.closed = True
    link.flush()
    assert not post
    assert link.drained
