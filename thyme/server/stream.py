"""One accepted socket as a stream of bytes that several greenlets may use.

A gevent socket leaves open what happens when greenlets share it, or die while they wait for it.
Decided here:

* One greenlet reads at a time, under `read_lock`. Its wait can be ended by another greenlet
  (`cancel_read`) or by its own death, and no byte is lost.
* Many may write. Each piece goes out whole and in order, even if its writer is killed half-way.
* Writes are coalesced on request: see `write_coalesced`.
* Waits have no timeouts, except `write_timeout` and that of `linger`; callers bring their own.
* A greenlet whose socket always has data yields to the others: see `work_done`.

A read waits *before* it receives: an idle socket costs no buffer, and a busy one no EAGAIN.

HTTP and WebSocket are unknown here; `server/connection.py` reads what a peer asks for. TLS is a
socket like any other: `server/tls.py`. Source for `linger`: RFC 9112 9.6.
Taught in notebooks/02_greenlets.ipynb. Read next: `server/connection.py`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import gevent
from gevent import Timeout, get_hub, monkey
from gevent.hub import Waiter
from gevent.lock import Semaphore

from thyme.config import AHEAD_BYTES, LINGER_SECONDS, READ_BYTES, WORK_PER_TURN
from thyme.errors import Disconnected, ReadCancelled, TooSlow
from thyme.server.tls import EncryptedSocket

_READ, _WRITE = 1, 2  # gevent's io watchers: which events
LAST = -1  # the lowest of gevent's priorities: after the sockets

COALESCED_BYTES = 16 * 1024
"""Coalesced for one peer at most: beyond that, fewer system calls save nothing measurable."""

# The standard library's socket, also in a patched process.
_PlainSocket: Final[type[socket.socket]] = monkey.get_original("socket", "socket")


def plain_socket(accepted: Any) -> socket.socket:
    """Return the connection of a gevent socket as a non-blocking standard one; detach `accepted`.

    `Stream` does all the waiting, so gevent's own watchers and checks would only cost.
    """
    plain = _PlainSocket(accepted.family, accepted.type, accepted.proto, accepted.detach())
    plain.setblocking(False)
    return plain


class RequestStream(Protocol):
    """The part of a `Stream` that one request needs: see `server/http_cycle.py`.

    In HTTP/1.1 the bytes of a connection are those of one request at a time, so this is the
    connection's `Stream`. HTTP/2 would have an object per request, whose `read` waits for its own
    frames and whose writes wait for its flow-control window (see `protocol/http.py`).
    """

    read_lock: Semaphore

    def read(self) -> bytes: ...
    def wait_for_end(self) -> None: ...
    def cancel_read(self) -> None: ...
    def work_done(self, pieces: int = 1) -> None: ...
    def write(self, data: bytes) -> None: ...
    def write_coalesced(self, data: bytes) -> bool: ...
    def finish_write(self) -> None: ...
    def discard_coalesced(self) -> None: ...


class Stream:
    """The bytes of one connection. Belongs to the hub of the thread that creates it.

    `connected` must be non-blocking. `write_timeout`: seconds that a `write` may wait for the peer
    to read; None: no limit, and no timer.

    `ended`: the peer has ended its side (or the connection is gone). `received`, `sent`: bytes so
    far. `read_lock`: held by the greenlet that reads, where more than one may.
    """

    __slots__ = (
        "_ahead",
        "_broken",
        "_cancellations",
        "_coalesced",
        "_coalescing",
        "_flusher",
        "_hub",
        "_maybe_more",
        "_on_backlog",
        "_outgoing",
        "_readable",
        "_reading",
        "_socket",
        "_work",
        "_writable",
        "_writing",
        "_writing_lock",
        "ended",
        "read_lock",
        "received",
        "sent",
        "write_timeout",
    )

    def __init__(
        self, connected: socket.socket | EncryptedSocket, write_timeout: float | None = None
    ) -> None:
        self._socket = connected
        self._hub: Any = get_hub()
        self._readable: Any = self._hub.loop.io(connected.fileno(), _READ)
        self._writable: Any = None  # made when needed: few connections ever wait to write
        self._reading: Waiter | None = None
        self._writing: Waiter | None = None
        self._writing_lock = Semaphore()
        self.read_lock = Semaphore()
        self._outgoing: list[bytes | memoryview] = []  # written, and not taken by the kernel
        self._coalesced = b""  # not empty only while `_outgoing` is empty
        self._coalescing = _coalescing_streams(self._hub)
        self._on_backlog: Callable[[], None] | None = None
        self._flusher: gevent.Greenlet | None = None
        self._ahead = b""  # received early, or pushed back
        self._maybe_more = False  # the last receive filled its buffer
        self._work = 0
        self._cancellations = 0
        self._broken = False
        self.ended = False
        self.write_timeout = write_timeout
        self.received = self.sent = 0

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the kernel has not taken."""
        return len(self._coalesced) + sum(map(len, self._outgoing))

    @property
    def unread(self) -> int:
        """Bytes that were received and that `read` has not returned yet."""
        return len(self._ahead)

    @property
    def offered(self) -> int:
        """Bytes that the kernel has taken, or that will be offered to it in this loop iteration."""
        return self.sent + len(self._coalesced)

    def handshake(self) -> None:
        """Complete the TLS handshake; no-op on a plain socket. Raises `OSError` if it fails."""
        connected = self._socket
        while isinstance(connected, EncryptedSocket):
            try:
                if connected.handshake():
                    self._maybe_more = True  # a request may have arrived with its last record
                    return
            except BlockingIOError:
                self._wait_readable()

    # Reading.

    def read(self, size: int = READ_BYTES) -> bytes:
        """Return up to `size` bytes; b"" when the peer has ended its side or the socket is closed.

        Raises `ReadCancelled` if `cancel_read()` or `close()` is called while it waits.
        """
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._receive(size)

    def push_back(self, data: bytes) -> None:
        """Put `data` back, to be returned by the next `read`."""
        self._ahead = data + self._ahead

    def wait_for_end(self) -> None:
        """Return when the peer has ended its side. Bytes that it sends first are kept for `read`.

        At most `AHEAD_BYTES` and one receive are kept; then the socket is left alone, so that TCP
        stops the peer, and only `cancel_read()` ends the wait.
        """
        while not self.ended:
            if len(self._ahead) < AHEAD_BYTES:
                self._ahead += self._receive(READ_BYTES)
            else:
                self._wait_readable(watch=False)

    def cancel_read(self) -> None:
        """Raise `ReadCancelled` in the greenlet that waits to read; no-op if there is none.

        The caller has changed something that the reader must look at: the response is complete,
        the WebSocket was accepted, the server is shutting down. The reader is not killed, because
        it may be the application's greenlet, in the middle of `receive()`.

        The wait is over at once, but the reader is woken by a callback of the hub, so that the
        caller is not interrupted. In between the watcher must not fire for it, and another greenlet
        may begin to wait: hence the watcher is stopped and `_reading` cleared here, not there.
        """
        self._cancellations += 1
        waiter = self._reading
        if waiter is not None:
            self._readable.stop()
            self._reading = None
            self._hub.loop.run_callback(waiter.switch, False)

    def work_done(self, pieces: int = 1) -> None:
        """Count work done for the peer; yield to the others after `WORK_PER_TURN` pieces of it.

        A greenlet whose socket always has data, or whose peer always reads what is sent, would
        otherwise never yield. It yields for a whole iteration of the loop, by a timer of the lowest
        priority, so that all sockets are polled and served first: `sleep(0)` would let only those
        greenlets run that are ready already.
        """
        self._work += pieces
        if self._work >= WORK_PER_TURN:
            self._work = 0
            with self._hub.loop.timer(0, priority=LAST) as iteration:
                self._hub.wait(iteration)

    def _receive(self, size: int) -> bytes:
        while not self.ended:
            if not self._maybe_more:
                self._wait_readable()
            else:
                self._yield_between_reads()
            try:
                data = self._socket.recv(size)
            except BlockingIOError:
                self._maybe_more = False
                continue
            except OSError:
                data = b""  # reset by the peer, or closed by us: no more bytes, as at an end
            self._maybe_more = len(data) == size
            self.ended = not data
            self.received += len(data)
            return data
        return b""

    def _yield_between_reads(self) -> None:
        before = self._cancellations
        self.work_done()
        if self._cancellations != before:
            raise ReadCancelled("the read was cancelled by another greenlet")

    def _wait_readable(self, watch: bool = True) -> None:
        waiter = self._reading = Waiter(self._hub)
        if watch:
            self._readable.start(waiter.switch, True)
        try:
            if not waiter.get():
                raise ReadCancelled("the read was cancelled by another greenlet")
        finally:
            if self._reading is waiter:  # otherwise the next reader's wait has begun already
                self._readable.stop()
                self._reading = None
        self._work = 0

    # Writing at once.

    def write(self, data: bytes) -> None:
        """Return when the kernel has taken `data` and all that was written before it.

        Raises `Disconnected` when the peer is gone, `TooSlow` as `finish_write`. If the calling
        greenlet is killed, the rest of `data` goes out before whatever is written next.
        """
        if not self.begin_write(data):
            self.finish_write()

    def begin_write(self, data: bytes) -> bool:
        """Write what the kernel takes now. Return False if `finish_write()` is due for the rest.

        Never blocks. Raises `Disconnected` when the peer is gone.
        """
        if self._broken:
            raise Disconnected("the peer is gone")
        if self._coalesced:
            data, self._coalesced = self._coalesced + data, b""
        rest: bytes | memoryview = data
        if not self._outgoing:  # no backlog: the usual case
            sent = self._send(data)
            if sent == len(data):
                return True
            rest = memoryview(data)[sent:]
        self._outgoing.append(rest)
        return False

    def finish_write(self) -> None:
        """Return when the kernel has taken all that was written.

        Raises `Disconnected`; after `write_timeout` seconds `TooSlow`, and the rest stays unsent.
        """
        if self.write_timeout is None:
            with self._writing_lock:
                self._flush()
            return
        try:
            with Timeout(self.write_timeout) as limit, self._writing_lock:
                self._flush()
        except Timeout as expired:
            if expired is not limit:
                raise
            raise TooSlow(f"the peer has not read for {self.write_timeout} s") from None

    def _flush(self) -> None:
        outgoing = self._outgoing
        if self._coalesced:
            outgoing.append(self._coalesced)
            self._coalesced = b""
        while outgoing:
            data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
            outgoing.clear()
            sent = self._send(data)
            if sent < len(data):
                outgoing.insert(0, memoryview(data)[sent:])
                self._wait_writable()
        if self._broken:
            raise Disconnected("the peer is gone")

    def _send(self, data: bytes | memoryview) -> int:
        try:
            sent = self._socket.send(data)
            self.sent += sent
            return sent
        except BlockingIOError:
            return 0
        except OSError as error:
            self._broken = True
            raise Disconnected("the peer is gone") from error

    def _wait_writable(self) -> None:
        if self._writable is None:
            self._writable = self._hub.loop.io(self._socket.fileno(), _WRITE)
        waiter = self._writing = Waiter(self._hub)
        self._writable.start(waiter.switch, True)
        try:
            if not waiter.get():
                raise Disconnected("the connection was closed")
        finally:
            self._writing = None
            if self._writable is not None:
                self._writable.stop()

    # Coalesced writes.
    #
    # Callers that yield to the hub soon need not pay for a system call per message. What they
    # write is kept until the end of this iteration of the loop: until the greenlets and callbacks
    # that are ready now have run, and before the hub polls for new events. Then every stream sends
    # all it has in one piece. That saves
    #
    # * system calls: messages for one peer that came together leave together (bench cases
    #   `async-echo`, `burst`);
    # * wake-ups: the messages of a room leave one after the other, so a peer process on this
    #   machine is woken once for many, not between each two (bench cases `room-100`, `room-500`).
    #
    # Three cases need care. A peer that does not read: the rest becomes the backlog, and
    # `on_backlog` is called, by the hub. A fork: both processes hold the bytes, and only the parent
    # may send them (`_discard_in_child`). A close: what the kernel takes is still sent, so that a
    # last message is not lost.

    def write_coalesced(self, data: bytes, on_backlog: Callable[[], None] | None = None) -> bool:
        """Write `data` at the end of this loop iteration, in one piece with what else is coalesced.

        `on_backlog`: called by the hub if the kernel does not take all of it; must not block. By
        default a greenlet of the stream waits until the kernel has taken the rest, as
        `flush_coalesced()` and `finish_write()` do.

        Never blocks. Returns False if `finish_write()` is due, because there is a backlog already.
        Raises `Disconnected` if the peer is known to be gone; if that is discovered at the end of
        the iteration, the next write raises.
        """
        if self._outgoing or self._broken or len(self._coalesced) + len(data) > COALESCED_BYTES:
            return self.begin_write(data)
        if not self._coalesced:
            if not self._coalescing:
                self._hub.loop.run_callback(_end_iteration, self._hub.loop, self._coalescing)
            self._coalescing.append(self)
        self._coalesced += data
        self._on_backlog = on_backlog
        return True

    def flush_coalesced(self) -> None:
        """Write what is coalesced; return when the kernel has taken it, or it was discarded."""
        if self._coalesced:
            self._send_coalesced()
        if self._flusher is not None:
            self._flusher.join()

    def discard_coalesced(self) -> None:
        """Write what the kernel takes of what is coalesced; do not wait for the rest."""
        if self._coalesced:
            self._send_coalesced()
        if self._flusher is not None:
            self._flusher.kill(block=False)

    def _send_coalesced(self) -> None:
        data, self._coalesced = self._coalesced, b""
        try:
            sent = self._send(data)
            if sent == len(data):
                return
            self._outgoing.append(memoryview(data)[sent:])
            if self._on_backlog is not None:
                self._on_backlog()
            else:
                self._flusher = gevent.spawn(self._finish_in_background)
        except Disconnected:
            pass  # the next write raises it

    def _finish_in_background(self) -> None:
        try:
            self.finish_write()
        except TooSlow:
            self.close()
        except Disconnected:
            pass  # the next write raises it

    # The end.

    def linger(self) -> None:
        """End our side, and let the peer read what was sent last before the socket is closed.

        RFC 9112 9.6: if a server closes while the peer still sends, TCP resets the connection,
        which can erase the response before the peer has read it. So the server "performs a
        half-close", and then reads "until it receives a corresponding close by the client", here
        for `LINGER_SECONDS` at most. What it reads is discarded.
        """
        try:
            self._socket.shutdown(socket.SHUT_WR)
            with Timeout(LINGER_SECONDS, False):
                while self.read():
                    pass
        except (OSError, ReadCancelled):
            pass

    def close(self) -> None:
        """Close the socket, and wake all greenlets that wait for it. Idempotent."""
        self._on_backlog = _no_op
        self.discard_coalesced()
        self._on_backlog = None  # it may refer to an object that refers to this stream
        self._broken = self.ended = True
        self._outgoing.clear()
        self._coalesced = b""
        self.cancel_read()
        self._readable.close()
        if self._writable is not None:
            if self._writing is not None:
                self._hub.loop.run_callback(self._writing.switch, False)
            self._writable.close()
            self._writable = None
        self._socket.close()


# The streams of each hub that have something coalesced. Streams of one hub share a list, so that
# one callback per iteration serves them all. Each stream looks its list up once, when it is made.
_COALESCING: WeakKeyDictionary[Any, list[Stream]] = WeakKeyDictionary()


def _coalescing_streams(hub: Any) -> list[Stream]:
    _discard_in_children()
    return _COALESCING.setdefault(hub, [])


def _end_iteration(loop: Any, streams: list[Stream]) -> None:
    """Callback of the hub: send what `streams` have coalesced, in order."""
    streams.reverse()
    try:
        while streams:
            stream = streams.pop()
            if stream._coalesced:
                stream._send_coalesced()
    finally:
        if streams:  # a signal handler has raised
            loop.run_callback(_end_iteration, loop, streams)


@cache
def _discard_in_children() -> None:
    """Register `_discard_in_child`, once per process; not on import, which has no side effects."""
    os.register_at_fork(after_in_child=_discard_in_child)


def _discard_in_child() -> None:
    """After a fork: forget what is coalesced, because the parent sends it."""
    for streams in _COALESCING.values():
        for stream in streams:
            stream._coalesced = b""


def _no_op() -> None:
    """No-op callback."""
