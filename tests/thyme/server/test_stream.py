"""A socket that several greenlets share: nothing is lost, whole pieces, waits that can end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from tests.thyme.serving import SocketWithSend
from thyme.config import AHEAD_BYTES, READ_BYTES, WORK_PER_TURN
from thyme.errors import Disconnected, ReadCancelled
from thyme.server.stream import COALESCED_BYTES, Stream

Ends = tuple[Stream, socket.socket]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets that do not block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def ends(pair: tuple[socket.socket, socket.socket]) -> Iterator[Ends]:
    """A stream, and the socket at its other end."""
    ours, theirs = pair
    stream = Stream(ours)
    with gevent.Timeout(30):
        yield stream, theirs
    stream.close()


@pytest.fixture
def full(pair: tuple[socket.socket, socket.socket]) -> int:
    """The kernel's buffers are full: it takes no more. How many bytes that took."""
    size = 0
    while True:
        try:
            size += pair[0].send(b"a" * READ_BYTES)
        except BlockingIOError:
            return size


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
    assert stream.unread < AHEAD_BYTES + READ_BYTES
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


# Coalesced writes.


def heard(theirs: socket.socket) -> bytes:
    """What has come so far."""
    try:
        return theirs.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_what_is_coalesced_goes_out_together_at_the_end_of_the_iteration(ends: Ends) -> None:
    stream, theirs = ends
    assert stream.write_coalesced(b"a")
    assert stream.write_coalesced(b"b")
    assert heard(theirs) == b""
    assert (stream.unsent, stream.offered, stream.sent) == (2, 2, 0)
    gevent.sleep(0)
    assert heard(theirs) == b"ab"
    assert (stream.unsent, stream.offered, stream.sent) == (0, 2, 2)


def test_it_goes_out_before_the_hub_waits(ends: Ends) -> None:
    stream, theirs = ends
    reader = waiting(gevent.spawn(stream.read))
    stream.write_coalesced(b"a")
    theirs.send(b"question")
    reader.join()
    assert heard(theirs) == b"a"


def test_several_streams_share_the_end_of_an_iteration(ends: Ends) -> None:
    stream, theirs = ends
    left, right = socket.socketpair()
    left.setblocking(False)
    right.settimeout(0)
    other = Stream(left)
    for each, data in ((stream, b"a"), (other, b"b"), (stream, b"c")):
        each.write_coalesced(data)
    gevent.sleep(0)
    assert (heard(theirs), heard(right)) == (b"ac", b"b")
    other.close()
    right.close()


@pytest.mark.parametrize("write", [Stream.write, Stream.begin_write])
def test_what_is_written_at_once_takes_along_what_was_coalesced(ends: Ends, write: Any) -> None:
    stream, theirs = ends
    stream.write_coalesced(b"a")
    write(stream, b"b")
    assert heard(theirs) == b"ab"
    stream.write_coalesced(b"c")
    gevent.sleep(0)
    assert heard(theirs) == b"c"


def test_what_was_coalesced_is_there_when_writing_has_finished(ends: Ends) -> None:
    stream, theirs = ends
    stream.write_coalesced(b"a")
    stream.finish_write()
    assert heard(theirs) == b"a"


def test_not_more_than_coalesced_bytes_are_coalesced(ends: Ends) -> None:
    stream, theirs = ends
    assert stream.write_coalesced(b"a" * COALESCED_BYTES)
    assert heard(theirs) == b""
    assert stream.write_coalesced(b"b")
    assert heard(theirs) == b"a" * COALESCED_BYTES + b"b"


def test_what_was_coalesced_for_a_peer_that_does_not_read_waits_and_goes_out(
    ends: Ends, full: int
) -> None:
    stream, theirs = ends
    assert stream.write_coalesced(b"b" * 100)
    gevent.sleep(0)
    assert stream.unsent
    assert not stream.write_coalesced(b"c")  # from now on, who writes waits
    assert drained(theirs, full + 101) == b"a" * full + b"b" * 100 + b"c"
    stream.finish_write()
    assert stream.unsent == 0


def test_the_next_coalesced_write_raises_when_the_peer_has_gone(ends: Ends) -> None:
    stream, theirs = ends
    theirs.close()
    assert stream.write_coalesced(b"a")
    gevent.sleep(0)
    for _ in range(2):
        with pytest.raises(Disconnected):
            stream.write_coalesced(b"b")


def test_on_backlog_is_called_when_the_kernel_does_not_take_all(ends: Ends, full: int) -> None:
    stream, theirs = ends
    backlogs: list[int] = []
    stream.write_coalesced(b"b" * 100, lambda: backlogs.append(stream.unsent))
    gevent.sleep(0)
    assert backlogs == [100]
    writer = waiting(gevent.spawn(stream.finish_write))  # left to the callback's owner
    assert drained(theirs, full + 100).endswith(b"b" * 100)
    writer.get()


def test_flush_coalesced_returns_when_the_kernel_has_taken_all(ends: Ends, full: int) -> None:
    stream, theirs = ends
    stream.write_coalesced(b"b" * 100)
    waits = waiting(gevent.spawn(stream.flush_coalesced))
    assert drained(theirs, full + 100).endswith(b"b" * 100)
    waits.get()
    stream.flush_coalesced()


def test_discard_coalesced_ends_the_wait(ends: Ends, full: int) -> None:
    stream, _ = ends
    stream.write_coalesced(b"b" * 100)
    waits = waiting(gevent.spawn(stream.flush_coalesced))
    stream.discard_coalesced()
    waits.get()
    stream.flush_coalesced()


def test_a_signal_between_two_streams_of_an_iteration_loses_nothing_of_the_second(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Signalled(Exception):
        pass

    def handler(real: socket.socket, data: bytes) -> int:
        raise Signalled

    stream, theirs = ends
    left, right = socket.socketpair()
    other = Stream(SocketWithSend(left, handler))  # type: ignore[arg-type]
    errors: list[Any] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *error: errors.append(error[1]))
    other.write_coalesced(b"a")
    stream.write_coalesced(b"b")
    for _ in range(2):
        gevent.sleep(0)
    assert errors == [Signalled]
    assert heard(theirs) == b"b"
    other.close()
    right.close()


def test_what_was_coalesced_before_a_fork_is_the_parents_to_write(ends: Ends) -> None:
    stream, theirs = ends
    stream.write_coalesced(b"a")
    child = os.fork()
    if child == 0:
        try:
            stream.flush_coalesced()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert heard(theirs) == b""
    gevent.sleep(0)
    assert heard(theirs) == b"a"


def test_closing_writes_what_was_coalesced(ends: Ends) -> None:
    stream, theirs = ends
    stream.write_coalesced(b"a")
    stream.close()
    assert heard(theirs) == b"a"
    gevent.sleep(0)


def test_what_a_killed_greenlet_has_coalesced_goes_out(ends: Ends) -> None:
    stream, theirs = ends

    def application() -> None:
        stream.write_coalesced(b"a")
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
