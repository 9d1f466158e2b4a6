"""A relay's output for one peer: without blocking where possible, in order always."""

from __future__ import annotations

import pytest

from thyme.errors import ApplicationError, Disconnected
from thyme.split.relay.output import DRAIN, Output, Write

LINE = {"type": "websocket.send", "text": "a"}
ACCEPT = {"type": "websocket.accept"}


class Peer:
    """A server's transport, and what the output reports."""

    def __init__(self, *, nonblocking: bool = True) -> None:
        self.sent: list[dict] = []
        self.has_room = True
        self.error: Exception | None = None
        self.reported: list[int | Exception] = []
        self.notified = 0
        self.output = Output(
            notify=self._notify,
            on_written=self.reported.append,
            on_error=self.reported.append,
            send_nowait=self._send_nowait if nonblocking else None,
        )

    def _notify(self) -> None:
        self.notified += 1

    def _send_nowait(self, event: dict) -> bool:
        if self.error is not None:
            raise self.error
        self.sent.append(event)
        return self.has_room


def test_an_event_is_sent_and_reported_at_once_if_that_does_not_block():
    peer = Peer()
    peer.output.put(LINE, 65)
    assert (peer.sent, peer.reported, peer.notified) == ([LINE], [65], 0)
    assert peer.output.next() is None


def test_an_event_that_was_not_sent_completely_is_drained_and_others_wait_for_that():
    peer = Peer()
    peer.has_room = False
    peer.output.put(LINE, 65)
    peer.has_room = True
    peer.output.put(LINE, 66)
    assert (len(peer.sent), peer.reported, peer.notified) == (1, [], 2)
    assert [peer.output.next(), peer.output.next()] == [Write(DRAIN, 65), Write(LINE, 66)]
    peer.output.put(LINE, 67)  # the one before is being written
    assert len(peer.sent) == 1
    assert peer.output.next() == Write(LINE, 67)
    assert peer.output.next() is None
    peer.output.put(LINE, 68)
    assert len(peer.sent) == 2


def test_an_event_that_may_block_is_left_to_the_writer_and_so_are_those_behind_it():
    peer = Peer()
    peer.output.put(ACCEPT, 64)
    peer.output.put(LINE, 65)
    assert peer.sent == []
    assert [peer.output.next(), peer.output.next()] == [Write(ACCEPT, 64), Write(LINE, 65)]


def test_a_server_that_can_only_block_gets_each_event_from_the_writer():
    peer = Peer(nonblocking=False)
    peer.output.put(LINE, 65)
    write = peer.output.next()
    assert write == Write(LINE, 65)
    assert peer.reported == []
    peer.output.written(write)
    assert peer.reported == [65]


@pytest.mark.parametrize("error", [Disconnected("gone"), ApplicationError("invalid")])
def test_an_event_for_a_peer_that_is_gone_is_written_and_an_invalid_one_is_an_error(error):
    peer = Peer()
    peer.error = error
    peer.output.put(LINE, 65)
    assert peer.reported == [65 if isinstance(error, Disconnected) else error]


def test_the_relays_own_events_come_last_and_with_their_size():
    peer = Peer(nonblocking=False)
    peer.output.put(LINE, 65)
    peer.output.append({"type": "http.response.body", "body": b"abc"})
    sizes = [write.size for write in iter(peer.output.next, None)]
    assert sizes == [65, 67]
