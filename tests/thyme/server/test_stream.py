"""A socket that several greenlets share: nothing is lost, whole pieces, waits that can end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from thyme.config import AHEAD_BYTES, READ_BYTES, WORK_PER_TURN
from thyme.errors import Disconnected, ReadCancelled
from thyme.server.stream import COALESCED_BYTES, Stream, _end_round

Ends = tuple[Stream, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A stream, and the socket at its other end (which may block: it is never made to)."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(0)
    stream = Stream(ours)
    with gevent.Timeout(30):
        yield stream, theirs
    stream.close()
    theirs.close()


def waiting(greenlet: gevent.Greenlet) -> gevent.Greenlet:
    """`greenlet`, started and blocked."""
    for _ in range(3):
        gevent.sleep(0)
    assert not greenlet.ready()
    return greenlet


def drained(theirs: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        gevent.sleep(0.001)
        try:
            data += theirs.recv(1 << 20)
        except BlockingIOError:
            continue
    return data


def test_a_read_gives_what_is_there_and_the_end_as_nothing(ends: Ends) -> None:
    stream, theirs = ends
    theirs.send(b"abc")
    assert stream.read() == b"abc"
    theirs.close()
    assert stream.read() == b""
    assert stream.read() == b""
    assert stream.ended


def test_a_killed_reader_loses_nothing(ends: Ends) -> None:
    stream, theirs = ends
    reader = waiting(gevent.spawn(stream.read))
    theirs.send(b"abc")
    reader.kill()
    assert stream.read() == b"abc"


def test_a_cancelled_reader_takes_nothing_from_the_next(ends: Ends) -> None:
    stream, theirs = ends
    first = waiting(gevent.spawn(stream.read))
    first.link_exception(lambda _: None)
    stream.cancel_read()
    second = gevent.spawn(stream.read)
    theirs.send(b"abc")
    assert second.get() == b"abc"
    assert isinstance(first.exception, ReadCancelled)


def test_cancelling_nobody_does_nothing(ends: Ends) -> None:
    stream, theirs = ends
    stream.cancel_read()
    theirs.send(b"abc")
    assert stream.read() == b"abc"


def test_what_comes_while_the_end_is_awaited_is_kept_in_order(ends: Ends) -> None:
    stream, theirs = ends
    watcher = waiting(gevent.spawn(stream.wait_for_end))
    theirs.send(b"abc")
    waiting(watcher)
    theirs.send(b"def")
    theirs.shutdown(socket.SHUT_WR)
    watcher.join()
    assert stream.read() == b"abcdef"
    assert stream.read() == b""


def test_what_is_kept_is_bounded(ends: Ends) -> None:
    stream, theirs = ends
    watcher = gevent.spawn(stream.wait_for_end)
    sent = 0
    for _ in range(200):
        try:
            sent += theirs.send(b"a" * READ_BYTES)
        except BlockingIOError:
            pass
        gevent.sleep(0)
    assert len(stream._ahead) < AHEAD_BYTES + READ_BYTES
    waiting(watcher)
    stream.cancel_read()
    watcher.join()
    received = 0
    while received < sent:
        received += len(stream.read())
    assert received == sent


def test_a_writer_waits_for_a_peer_that_does_not_read(ends: Ends) -> None:
    stream, theirs = ends
    writer = waiting(gevent.spawn(stream.write, b"a" * (1 << 22)))
    assert len(drained(theirs, 1 << 22)) == 1 << 22
    writer.get()


def test_the_pieces_of_several_writers_are_not_mixed(ends: Ends) -> None:
    stream, theirs = ends
    size = 1 << 20
    writers = [gevent.spawn(stream.write, letter * size) for letter in (b"a", b"b", b"c")]
    assert drained(theirs, 3 * size) == b"a" * size + b"b" * size + b"c" * size
    gevent.joinall(writers, raise_error=True)


def test_a_killed_writer_leaves_whole_pieces(ends: Ends) -> None:
    stream, theirs = ends
    size = 1 << 22
    writer = waiting(gevent.spawn(stream.write, b"a" * size))
    writer.kill()
    other = gevent.spawn(stream.write, b"b")
    assert drained(theirs, size + 1) == b"a" * size + b"b"
    other.get()


# -- gathering


def heard(theirs: socket.socket) -> bytes:
    """What has come so far."""
    try:
        return theirs.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_what_is_gathered_goes_out_together_at_the_end_of_the_round(ends: Ends) -> None:
    stream, theirs = ends
    assert stream.gather(b"a")
    assert stream.gather(b"b")
    assert heard(theirs) == b""
    assert (stream.unsent, stream.offered, stream.sent) == (2, 2, 0)
    gevent.sleep(0)
    assert heard(theirs) == b"ab"
    assert (stream.unsent, stream.offered, stream.sent) == (0, 2, 2)


def test_it_goes_out_before_the_hub_waits(ends: Ends) -> None:
    stream, theirs = ends
    reader = waiting(gevent.spawn(stream.read))
    stream.gather(b"a")
    theirs.send(b"question")
    reader.join()
    assert heard(theirs) == b"a"


def test_several_streams_share_the_end_of_a_round(ends: Ends) -> None:
    stream, theirs = ends
    left, right = socket.socketpair()
    left.setblocking(False)
    right.settimeout(0)
    other = Stream(left)
    for each, data in ((stream, b"a"), (other, b"b"), (stream, b"c")):
        each.gather(data)
    gevent.sleep(0)
    assert (heard(theirs), heard(right)) == (b"ac", b"b")
    other.close()
    right.close()


@pytest.mark.parametrize("write", [Stream.write, Stream.begin_write])
def test_what_is_written_at_once_takes_along_what_was_gathered(ends: Ends, write: Any) -> None:
    stream, theirs = ends
    stream.gather(b"a")
    write(stream, b"b")
    assert heard(theirs) == b"ab"
    stream.gather(b"c")
    gevent.sleep(0)
    assert heard(theirs) == b"c"


def test_what_was_gathered_is_there_when_writing_has_finished(ends: Ends) -> None:
    stream, theirs = ends
    stream.gather(b"a")
    stream.finish_write()
    assert heard(theirs) == b"a"


def test_not_more_than_a_little_is_gathered(ends: Ends) -> None:
    stream, theirs = ends
    assert stream.gather(b"a" * COALESCED_BYTES)
    assert heard(theirs) == b""
    assert stream.gather(b"b")
    assert heard(theirs) == b"a" * COALESCED_BYTES + b"b"


def full(stream: Stream) -> int:
    """Fill the kernel's buffers; how many bytes that took."""
    size = 0
    while stream.begin_write(b"a" * READ_BYTES):
        size += READ_BYTES
    return size + READ_BYTES


def test_what_was_gathered_for_a_peer_that_does_not_read_waits_and_goes_out(ends: Ends) -> None:
    stream, theirs = ends
    size = full(stream) - stream.unsent
    stream._outgoing.clear()
    assert stream.gather(b"b" * 100)
    gevent.sleep(0)
    assert stream.unsent
    assert not stream.gather(b"c")  # from now on, who writes waits
    assert drained(theirs, size + 101) == b"a" * size + b"b" * 100 + b"c"
    stream.finish_write()
    assert stream.unsent == 0


def test_that_the_peer_has_gone_is_told_by_what_is_gathered_next(ends: Ends) -> None:
    stream, theirs = ends
    theirs.close()
    assert stream.gather(b"a")
    gevent.sleep(0)
    for _ in range(2):
        with pytest.raises(Disconnected):
            stream.gather(b"b")


def test_somebody_may_be_told_that_the_kernel_has_not_taken_all(ends: Ends) -> None:
    stream, theirs = ends
    size = full(stream) - stream.unsent
    stream._outgoing.clear()
    rests: list[int] = []
    stream.on_backlog = lambda: rests.append(stream.unsent)
    stream.gather(b"b" * 100)
    gevent.sleep(0)
    assert rests == [100]
    writer = waiting(gevent.spawn(stream.finish_write))  # which is left to whoever was told
    assert drained(theirs, size + 100).endswith(b"b" * 100)
    writer.get()


def test_it_can_be_awaited_that_what_was_gathered_has_gone(ends: Ends) -> None:
    stream, theirs = ends
    size = full(stream) - stream.unsent
    stream._outgoing.clear()
    stream.gather(b"b" * 100)
    waits = waiting(gevent.spawn(stream.flush_coalesced))
    assert drained(theirs, size + 100).endswith(b"b" * 100)
    waits.get()
    stream.flush_coalesced()


def test_it_can_be_given_up(ends: Ends) -> None:
    stream, _ = ends
    full(stream)
    stream._outgoing.clear()
    stream.gather(b"b" * 100)
    waits = waiting(gevent.spawn(stream.flush_coalesced))
    stream.discard_coalesced()
    waits.get()
    stream.flush_coalesced()


def test_a_signal_between_two_streams_of_a_round_loses_nothing_of_the_second(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Signalled(Exception):
        pass

    def handler(stream: Stream, data: bytes) -> int:
        monkeypatch.undo()
        raise Signalled

    stream, theirs = ends
    left, right = socket.socketpair()
    other = Stream(left)
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *error: None)
    monkeypatch.setattr(Stream, "_send", handler)
    other.gather(b"a")
    stream.gather(b"b")
    for _ in range(2):
        gevent.sleep(0)
    assert heard(theirs) == b"b"
    other.close()
    right.close()


def test_what_was_gathered_before_a_fork_is_the_parents_to_write(ends: Ends) -> None:
    stream, theirs = ends
    stream.gather(b"a")
    child = os.fork()
    if child == 0:
        try:
            _end_round(gevent.get_hub().loop, stream._round)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert heard(theirs) == b""
    gevent.sleep(0)
    assert heard(theirs) == b"a"


def test_closing_writes_what_was_gathered(ends: Ends) -> None:
    stream, theirs = ends
    stream.gather(b"a")
    stream.close()
    assert heard(theirs) == b"a"
    gevent.sleep(0)


def test_a_killed_greenlet_has_gathered_what_it_has_gathered(ends: Ends) -> None:
    stream, theirs = ends

    def application() -> None:
        stream.gather(b"a")
        gevent.sleep(10)

    greenlet = gevent.spawn(application)
    gevent.sleep(0)
    greenlet.kill()
    assert heard(theirs) == b"a"


def test_writing_to_a_peer_that_has_gone_is_disconnected(ends: Ends) -> None:
    stream, theirs = ends
    theirs.close()
    for _ in range(2):
        with pytest.raises(Disconnected):
            stream.write(b"abc")


def test_a_writer_that_waits_learns_that_the_peer_has_gone(ends: Ends) -> None:
    stream, theirs = ends
    writers = [waiting(gevent.spawn(stream.write, b"a" * (1 << 22))) for _ in range(2)]
    theirs.close()
    gevent.joinall(writers)
    assert [type(writer.exception) for writer in writers] == [Disconnected] * 2


def test_closing_wakes_a_reader_and_the_writers(ends: Ends) -> None:
    stream, _ = ends
    reader = waiting(gevent.spawn(stream.read))
    writers = [waiting(gevent.spawn(stream.write, b"a" * (1 << 22))) for _ in range(2)]
    stream.close()
    gevent.joinall([reader, *writers])
    assert isinstance(reader.exception, ReadCancelled)
    assert [type(writer.exception) for writer in writers] == [Disconnected] * 2
    stream.close()


def test_after_some_work_other_sockets_get_a_turn(ends: Ends) -> None:
    stream, theirs = ends
    reader = waiting(gevent.spawn(stream.read))
    theirs.send(b"abc")
    for _ in range(WORK_PER_TURN - 1):
        stream.work_done()
    assert not reader.ready()
    stream.work_done()
    assert reader.value == b"abc"
