"""One HTTP request and its response: what `receive()` and `send()` of an "http" scope do.

Bytes are read when the application asks for them, in the greenlet that asks (back-pressure), and
an application that never asks leaves them in the socket. Decided here: when 100 Continue is said,
what `receive()` gives after the body, what happens when the application fails or does not finish,
and whether the connection can be used for another request.

The bytes themselves are made by `protocol/response.py` and read by `protocol/http11.py`; the socket
is `server/stream.py`.
"""

from __future__ import annotations

import logging
import os

from thyme.asgi import Application, Event, Scope
from thyme.config import DRAIN_BYTES, READ_BYTES
from thyme.errors import ApplicationError, Disconnected, ReadCancelled
from thyme.protocol.head_rules import Refusal
from thyme.protocol.http11 import END, Request, RequestParser
from thyme.protocol.response import BODY, CONTINUE, HINT, Response, refusal_response
from thyme.protocol.scope import written
from thyme.server.stream import Stream

_LOGGER = logging.getLogger("thyme.server")

PATHSEND = "http.response.pathsend"
_SELDOM = frozenset({PATHSEND, HINT})

_FAILED = Refusal(500, "the application failed")


class HTTPCycle:
    """Call `run()` once; then `stream` is free for the next request if it returned True."""

    received = False
    """Whether the whole request has been read, or its rest will never come."""
    _over = False
    _sending = 0  # greenlets that wait for the peer to read
    _refusal: Refusal | None = None
    _answered = 0  # the status of our own answer, in place of the application's
    coalesce = False  # as `Transport` has it: nothing is gained for a response

    def __init__(
        self, stream: Stream, parser: RequestParser, request: Request, server_header: str
    ) -> None:
        self.stream = stream
        self.response = Response(
            request.method, request.http_version, request.keep_alive, server_header
        )
        self._parser = parser
        self._server_header = server_header
        self._continue_due = request.expects_continue
        self._reading = stream.reader

    def run(self, application: Application, scope: Scope) -> bool:
        """Let the application answer; whether the connection can be used again.

        Never raises what the application raises: that is logged, and answered with 500 while
        nothing has been sent.
        """
        try:
            application.serve(scope, self)
            if not self.response.complete:
                _LOGGER.error(
                    "%s: the application returned without completing its response", _asked(scope)
                )
        except Disconnected:
            pass  # it has learned that nobody listens any more, and has given up
        except Exception:
            _LOGGER.exception("%s: the application failed", _asked(scope))
        return self._finish()

    @property
    def status(self) -> int:
        """What was answered."""
        return self._answered or self.response.status

    # What the application calls.

    def receive(self) -> Event:
        """http.request while there is body to come, then, when all is over, http.disconnect.

        After the body this blocks until the peer is gone or the response is complete. May be
        killed: no byte is lost.
        """
        with self._reading:
            try:
                if self._over or self.response.complete:
                    pass
                elif not self.received:
                    return self._next_body()
                elif self._refusal is None:
                    self.stream.wait_for_end()
            except (ReadCancelled, Disconnected):
                pass
            return {"type": "http.disconnect"}

    def send(self, event: Event) -> None:
        """Encode and write `event`; returns when the kernel has taken it (back-pressure).

        Raises `ApplicationError` for what HTTP cannot carry, `Disconnected` when the peer is gone.
        """
        kind = event["type"]
        if kind not in _SELDOM:
            data = self._encoded(event)
            if data:
                self.stream.write(data)
            if self.response.complete:
                self._wake_reader()
            elif data:
                self.stream.work_done()
        elif kind == PATHSEND:
            self._send_file(event["path"])
        else:
            self.stream.write(self.response.hint(event))

    def _send_file(self, path: str) -> None:
        """ASGI's extension "Path Send": the whole body is what the file at `path` holds now."""
        if not os.path.isabs(path):
            raise ApplicationError(f"got path {path!r}, expected an absolute one")
        with open(path, "rb") as file:
            missing = os.fstat(file.fileno()).st_size
            self.response.expect_length(missing)
            while missing > READ_BYTES and (piece := file.read(READ_BYTES)):
                missing -= len(piece)
                self.send({"type": BODY, "body": piece, "more_body": True})
            self.send({"type": BODY, "body": file.read(missing)})

    def send_nowait(self, event: Event) -> bool:
        """`send`, for who gives the hub back soon (`Stream.gather`).

        Never blocks; False when `drain()` is due.
        """
        data = self._encoded(event)
        if data and not self.stream.gather(data):
            return False
        if self.response.complete:
            self._wake_reader()
        return True

    def drain(self) -> None:
        """Return when the kernel has taken what `send_nowait()` has left."""
        self._sending += 1
        try:
            self.stream.finish_write()
        finally:
            self._sending -= 1
        if self.response.complete:
            self._wake_reader()

    def _encoded(self, event: Event) -> bytes:
        if self._over:
            raise Disconnected("the application has returned: its response is over")
        return self.response.encode(event)

    def receive_nowait(self) -> Event | None:
        """What `receive()` would give without blocking: a body that is here already."""
        if self._reading.locked() or self.received or self._over or self._continue_due:
            return None
        return self._next_body() if self._parser.events else None

    # Reading.

    def _next_body(self) -> Event:
        if self._continue_due:
            self._say_continue()
        events = self._parser.events
        while not events:
            if not self._read_more():
                return {"type": "http.disconnect"}
        pieces: list[bytes] = []
        while events and isinstance(events[0], bytes):
            pieces.append(events.popleft())  # type: ignore[arg-type]
        if events:
            mark = events.popleft()
            self.received = True
            if isinstance(mark, Refusal):
                self._refusal = mark
                self.response.keep_alive = False
                return {"type": "http.disconnect"}
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": not self.received}

    def _read_more(self) -> bool:
        """Give the parser more bytes; False when there are none."""
        data = self.stream.read()
        if data:
            self._parser.feed(data)
            self.stream.work_done(len(self._parser.events))
            return True
        self.received = True
        self.response.keep_alive = False
        return False

    def _say_continue(self) -> None:
        # RFC 9110 10.1.1: "A server MAY omit sending a 100 (Continue) response if it has already
        # received some or all of the content for the corresponding request", and it makes no
        # sense once the final response has begun.
        self._continue_due = False
        if not self._parser.events and not self.response.begun:
            self.stream.write(CONTINUE)

    def _wake_reader(self) -> None:
        if self._reading.locked():
            self.stream.cancel_read()

    # The end.

    def _finish(self) -> bool:
        self._over = True
        if self._sending:  # the application has given up
            self.stream.discard_coalesced()
        response, events = self.response, self._parser.events
        if response.complete and events and events[0] is END:  # the usual case: no body to come
            events.popleft()
            self.received = True
            self._wake_reader()
            return response.keep_alive
        if not response.begun:
            response.keep_alive = False
            self._answer(self._refusal or _FAILED)
        elif not response.complete:
            response.keep_alive = False  # cut off: the peer sees that it is not whole
        self._wake_reader()
        if not self.received:
            response.keep_alive &= self._drain()
        return response.keep_alive

    def _answer(self, refusal: Refusal) -> None:
        self._answered = refusal.status
        try:
            self.stream.write(refusal_response(refusal, self._server_header))
        except Disconnected:
            pass

    def _drain(self) -> bool:
        """Read away the body that the application left; False when that is too much.

        RFC 9110 10.1.1: a peer that waits for 100 Continue may not send the body at all now.
        """
        if self._continue_due or not self.response.keep_alive:
            return False
        budget = DRAIN_BYTES
        while budget > 0:
            event = self._next_body()
            if self.received:
                return self._refusal is None and event["type"] == "http.request"
            budget -= len(event["body"])
        return False


def _asked(scope: Scope) -> str:
    return f"{scope['method']} {written(scope['raw_path'])}"
