"""A socket that several greenlets share: nothing is lost, whole pieces, waits that can end."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import pytest

from thyme.application import Disconnected
from thyme.config import AHEAD_BYTES, READ_BYTES, WORK_PER_TURN
from thyme.errors import ReadCancelled
from thyme.stream import Stream

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
