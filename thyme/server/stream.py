"""One accepted socket as a stream of bytes that several greenlets may use.

What a gevent socket leaves open is decided here: one reader at a time, whose wait can be ended by
another greenlet or by its own death without a byte being lost; many writers, whose pieces go out
whole and in order even when a writer is killed half-way, at once or together at the end of a round
of the hub; no time-outs; a turn for the others when there is always something to read.

It waits *before* it reads: an idle socket costs no buffer and a busy one no EAGAIN.

HTTP and WebSocket are unknown here. Taught in notebooks/02_greenlets.ipynb.
Read next: `server/connection.py`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent import Timeout, get_hub, monkey
from gevent._hub_local import get_hub_if_exists
from gevent.hub import Waiter
from gevent.lock import Semaphore

from thyme.config import AHEAD_BYTES, LINGER_SECONDS, READ_BYTES, WORK_PER_TURN
from thyme.errors import Disconnected, ReadCancelled, TooSlow
from thyme.server.tls import EncryptedSocket

_READ, _WRITE = 1, 2  # gevent's io watchers: which events
LAST = -1  # gevent's priorities: after the sockets

_ROUND = "streams_that_have_gathered"  # an attribute of their hub

COALESCED_BYTES = 16 * 1024
"""More is not gathered for one peer: it would save no system calls worth mentioning."""

# The standard library's own, also in a patched process.
_PlainSocket: Final[type[socket.socket]] = monkey.get_original("socket", "socket")


def plain_socket(accepted: Any) -> socket.socket:
    """The connection of a gevent socket as an ordinary non-blocking one; `accepted` lets go of it.

    All waiting is done here, so gevent's own watchers and checks would only cost.
    """
    plain = _PlainSocket(accepted.family, accepted.type, accepted.proto, accepted.detach())
    plain.setblocking(False)
    return plain


class Stream:
    """The bytes of one connection, whose socket does not block. Belongs to the hub of its thread.

    `ended`: the peer has ended its side (or the connection is gone). `received`, `sent`: bytes so
    far. `patience`: seconds that a `write` may wait for the peer to read; None: for ever, and no
    timer. `reader`: to be held by whoever reads, where more than one greenlet may. `on_backlog`:
    called by the hub when the kernel has not taken all that was gathered; must not block. None:
    the rest is waited for by a greenlet of the stream's own, see `flush_coalesced()`.
    """

    __slots__ = (
        "_ahead",
        "_broken",
        "_cancellations",
        "_coalesced",
        "_flusher",
        "_hub",
        "_maybe_more",
        "_outgoing",
        "_readable",
        "_reading",
        "_round",
        "_socket",
        "_work",
        "_writable",
        "_writing",
        "_writing_lock",
        "ended",
        "on_backlog",
        "patience",
        "reader",
        "received",
        "sent",
    )

    def __init__(
        self, connected: socket.socket | EncryptedSocket, patience: float | None = None
    ) -> None:
        self._socket = connected
        self._hub: Any = get_hub()
        self._readable: Any = self._hub.loop.io(connected.fileno(), _READ)
        self._writable: Any = None  # few connections ever wait to write
        self._reading: Waiter | None = None
        self._writing: Waiter | None = None
        self._writing_lock = Semaphore()
        self.reader = Semaphore()
        self._outgoing: list[bytes | memoryview] = []
        self._coalesced = b""  # while there is any, `_outgoing` is empty
        self._round: list[Stream] = vars(self._hub).setdefault(_ROUND, [])
        self._flusher: gevent.Greenlet | None = None
        self.on_backlog: Callable[[], None] | None = None
        self._ahead = b""
        self._maybe_more = False
        self._work = 0
        self._cancellations = 0
        self._broken = False
        self.ended = False
        self.patience = patience
        self.received = self.sent = 0

    @property
    def unsent(self) -> int:
        """Bytes that were written, and that the kernel has not taken."""
        return len(self._coalesced) + sum(map(len, self._outgoing))

    @property
    def offered(self) -> int:
        """Bytes that the kernel has taken so far, or will be offered at the end of this round."""
        return self.sent + len(self._coalesced)

    def handshake(self) -> None:
        """TLS: return when both sides have agreed. Raises `OSError`. A plain socket has none."""
        connected = self._socket
        while isinstance(connected, EncryptedSocket):
            try:
                if connected.handshake():
                    self._maybe_more = True  # a request may have come with its last piece
                    return
            except BlockingIOError:
                self._wait_readable()

    # Reading.

    def read(self, size: int = READ_BYTES) -> bytes:
        """The next bytes; b"" when the peer has ended its side, or the socket is closed.

        `size`: how many at most. Raises `ReadCancelled` when `cancel_read()` or `close()` comes
        while it waits.
        """
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._receive(size)

    def unread(self, data: bytes) -> None:
        """Put back what was read too early."""
        self._ahead = data + self._ahead

    def wait_for_end(self) -> None:
        """Return when the peer has ended its side. What it sends meanwhile is kept for `read()`.

        When more than `AHEAD_BYTES` are kept the socket is not read any more, so that TCP pushes
        back; then only `cancel_read()` ends this.
        """
        while not self.ended:
            if len(self._ahead) < AHEAD_BYTES:
                self._ahead += self._receive(READ_BYTES)
            else:
                self._wait_readable(watched=False)

    def cancel_read(self) -> None:
        """Let the greenlet that is in `read()`, if any, get `ReadCancelled` instead of bytes."""
        self._cancellations += 1
        waiter = self._reading
        if waiter is not None:
            self._readable.stop()
            self._reading = None
            self._hub.loop.run_callback(waiter.switch, False)

    def work_done(self, pieces: int = 1) -> None:
        """Count work done for the peer; give others a turn after `WORK_PER_TURN` pieces of it.

        A greenlet whose socket always has data, or whose peer always reads what it sends, would
        otherwise never switch. The turn is a whole
        round of the hub, so that sockets are polled and served before us: `sleep(0)` lets only
        those run that are ready already.
        """
        self._work += pieces
        if self._work >= WORK_PER_TURN:
            self._work = 0
            with self._hub.loop.timer(0, priority=LAST) as round_of_the_hub:
                self._hub.wait(round_of_the_hub)

    def _receive(self, size: int) -> bytes:
        while not self.ended:
            if not self._maybe_more:
                self._wait_readable()
            else:
                self._take_turns()
            try:
                data = self._socket.recv(size)
            except BlockingIOError:
                self._maybe_more = False
                continue
            except OSError:
                data = b""  # reset by the peer, or closed by us: no more bytes, like an end
            self._maybe_more = len(data) == size
            self.ended = not data
            self.received += len(data)
            return data
        return b""

    def _take_turns(self) -> None:
        before = self._cancellations
        self.work_done()
        if self._cancellations != before:
            raise ReadCancelled("the read was ended by another greenlet")

    def _wait_readable(self, watched: bool = True) -> None:
        waiter = self._reading = Waiter(self._hub)
        if watched:
            self._readable.start(waiter.switch, True)
        try:
            if not waiter.get():
                raise ReadCancelled("the read was ended by another greenlet")
        finally:
            if self._reading is waiter:  # else another greenlet's wait has begun already
                self._readable.stop()
                self._reading = None
        self._work = 0

    # Writing.

    def write(self, data: bytes) -> None:
        """Return when the kernel has taken `data`, and all that was written before it.

        Raises `Disconnected` when the peer is gone. When the calling greenlet is killed the rest
        of `data` goes out before what is written next.
        """
        if not self.begin_write(data):
            self.finish_write()

    def begin_write(self, data: bytes) -> bool:
        """Write what the kernel takes at once; True when that is all, else `finish_write()` is due.

        Never blocks. Raises `Disconnected` when the peer is gone.
        """
        if self._broken:
            raise Disconnected("the peer has gone")
        if self._coalesced:
            data, self._coalesced = self._coalesced + data, b""
        rest: bytes | memoryview = data
        if not self._outgoing:  # nobody waits to write: the usual case
            sent = self._send(data)
            if sent == len(data):
                return True
            rest = memoryview(data)[sent:]
        self._outgoing.append(rest)
        return False

    def gather(self, data: bytes) -> bool:
        """As `begin_write`, but when all that is ready now has had its turn in the hub.

        For who gives the hub back soon: until then nobody hears anything. All that is gathered in
        one round for a peer costs one system call; and the answers to all go out one after the
        other, so that peers on this machine are woken once, and not between two answers.

        Never blocks. False when `finish_write()` is due: the kernel did not even take what was
        written before. Raises `Disconnected` when the peer is known to be gone; when that shows at
        the end of the round, the next call tells.
        """
        if self._outgoing or self._broken or len(self._coalesced) + len(data) > COALESCED_BYTES:
            return self.begin_write(data)
        if not self._coalesced:
            if not self._round:
                self._hub.loop.run_callback(_end_round, self._hub.loop, self._round)
            self._round.append(self)
        self._coalesced += data
        return True

    def _end_round(self) -> None:
        data, self._coalesced = self._coalesced, b""
        try:
            sent = self._send(data)
            if sent == len(data):
                return
            self._outgoing.append(memoryview(data)[sent:])
            if self.on_backlog is not None:
                self.on_backlog()
            else:
                self._flusher = gevent.spawn(self._finish_behind)
        except Disconnected:
            pass  # what is written next tells

    def _finish_behind(self) -> None:
        try:
            self.finish_write()
        except TooSlow:
            self.close()
        except Disconnected:
            pass

    def flush_coalesced(self) -> None:
        """Return when the kernel has taken what was gathered, or that was given up."""
        if self._coalesced:
            self._end_round()
        if self._flusher is not None:
            self._flusher.join()

    def discard_coalesced(self) -> None:
        """Write what the kernel takes of what was gathered; wait for the rest no more."""
        if self._coalesced:
            self._end_round()
        if self._flusher is not None:
            self._flusher.kill(block=False)

    def finish_write(self) -> None:
        """Return when the kernel has taken all that was begun.

        Raises `Disconnected`; after `patience` seconds `TooSlow`, which leaves the rest unsent.
        """
        if self.patience is None:
            with self._writing_lock:
                self._flush()
            return
        try:
            with Timeout(self.patience) as limit, self._writing_lock:
                self._flush()
        except Timeout as expired:
            if expired is not limit:
                raise
            raise TooSlow(f"the peer has not read for {self.patience} s") from None

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
            raise Disconnected("the peer has gone")

    def _send(self, data: bytes | memoryview) -> int:
        try:
            sent = self._socket.send(data)
            self.sent += sent
            return sent
        except BlockingIOError:
            return 0
        except OSError as error:
            self._broken = True
            raise Disconnected("the peer has gone") from error

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

    # The end.

    def linger(self) -> None:
        """End our side, and let the peer read what we sent last before the socket is closed.

        RFC 9112 9.6: a server that closes while the peer still sends makes TCP reset the
        connection, which can erase the answer; so it "performs a half-close" and then reads
        "until it receives a corresponding close by the client", here for `LINGER_SECONDS`.
        """
        try:
            self._socket.shutdown(socket.SHUT_WR)
            with Timeout(LINGER_SECONDS, False):
                while self.read():
                    pass
        except (OSError, ReadCancelled):
            pass

    def close(self) -> None:
        """Close the socket, and wake those who wait for it. Idempotent."""
        self.on_backlog = _nothing
        self.discard_coalesced()
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


def _end_round(loop: Any, streams: list[Stream]) -> None:
    """Called by the hub: write what these have gathered, in order."""
    streams.reverse()
    try:
        while streams:
            stream = streams.pop()
            if stream._coalesced:
                stream._end_round()
    finally:
        if streams:  # a signal's handler has raised something
            loop.run_callback(_end_round, loop, streams)


def _forget_round() -> None:
    """After a fork: what was gathered is the parent's to write."""
    streams: list[Stream] = vars(get_hub_if_exists() or object).get(_ROUND, [])
    for stream in streams:
        stream._coalesced = b""


os.register_at_fork(after_in_child=_forget_round)


def _nothing() -> None:
    """Nobody minds."""
