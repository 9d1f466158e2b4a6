"""What crosses between relay and worker: scopes, events, versions."""

from __future__ import annotations

import pytest

from gredis.messages import pack, unpack
from tests.thyme.peer import HTTP
from thyme.split.wire import (
    CHUNK_BYTES,
    EVENT_OVERHEAD,
    decode_scope,
    encode_scope,
    event_size,
    negotiate_version,
    plain_response,
    split_event,
)


@pytest.mark.parametrize(
    ("oldest", "newest", "chosen"), [(2, 2, 2), (2, 3, 2), (1, 2, 2), (3, 4, None), (1, 1, None)]
)
def test_the_newest_version_that_both_support_is_used(oldest, newest, chosen):
    assert negotiate_version(oldest, newest) == chosen


def test_only_parts_of_a_scope_that_mean_something_elsewhere_cross():
    scope = HTTP | {
        "state": {"pool": object()},
        "extensions": {"http.response.pathsend": {}, "websocket.http.response": {}},
    }
    crossing = encode_scope(scope)
    assert "state" not in crossing
    assert crossing["extensions"] == {"websocket.http.response": {}}


def test_a_scope_is_the_same_after_it_has_crossed():
    assert decode_scope(unpack(pack(encode_scope(HTTP)))) == HTTP | {"extensions": {}}


@pytest.mark.parametrize(
    ("content", "size"),
    [
        ({}, 0),
        ({"text": "abc"}, 3),
        ({"text": "äöü"}, 6),
        ({"bytes": b"abc", "text": None}, 3),
        ({"body": bytearray(5)}, 5),
    ],
)
def test_an_event_counts_its_content_in_bytes_and_something_for_itself(content, size):
    assert event_size({"type": "x", **content}) == size + EVENT_OVERHEAD


@pytest.mark.parametrize(
    ("content", "error"),
    [({"text": "\ud800"}, ValueError), ({"text": 7}, TypeError), ({"body": ["x"]}, TypeError)],
)
def test_content_that_cannot_be_sent_has_no_size(content, error):
    with pytest.raises(error):
        event_size({"type": "x", **content})


@pytest.mark.parametrize("more", [True, False])
def test_a_large_body_is_split_into_equivalent_events(more):
    body = bytes(range(256)) * 1024
    events = list(split_event({"type": "http.request", "body": body, "more_body": more}))
    assert b"".join(event["body"] for event in events) == body
    assert max(len(event["body"]) for event in events) == CHUNK_BYTES
    assert [event["more_body"] for event in events] == [True] * (len(events) - 1) + [more]


@pytest.mark.parametrize("kind", ["http.request", "websocket.http.response.body"])
def test_an_event_stays_whole_when_it_is_small_or_must_not_be_split(kind):
    size = CHUNK_BYTES if kind == "http.request" else 2 * CHUNK_BYTES
    event = {"type": kind, "body": bytes(size)}
    assert list(split_event(event)) == [event]


def test_a_plain_response_says_its_status_and_its_length():
    start, body = plain_response(503, "All workers are busy")
    assert start["status"] == 503
    assert body["body"] == b"503 All workers are busy\n"
    assert (b"content-length", b"%d" % len(body["body"])) in start["headers"]
