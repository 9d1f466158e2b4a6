"""Batches: what many connections are told at the same time stands in them once, and in order."""

from __future__ import annotations

from thyme.relay_link import Batch


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
