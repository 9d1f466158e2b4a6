"""One request and its response: the `Transport` of an "http" scope.

Bytes are read when the application asks for them, in the greenlet that asks. So an application that
does not receive leaves the body in the socket, and TCP stops the peer (back-pressure).

Decided here: when 100 Continue is sent, what `receive()` returns after the body, what the peer gets
when the application fails or returns early, and whether the connection can be reused. Bytes are
made and read behind `protocol/http.py`; the socket is `server/stream.py`'s.

One greenlet reads at a time. An application may call `receive()` in several greenlets (Django does,
to notice a disconnect while a view runs), so `receive()` holds the stream's `read_lock`. When the
response is complete, the greenlet that holds it is woken with `cancel_read()`, since the next bytes
belong to the next request.

Sources: RFC 9110 10.1.1; https://asgi.readthedocs.io/en/latest/specs/www.html, "HTTP".
Read next: `protocol/response.py`.
"""

from __future__ import annotations

import logging
import os

from thyme.asgi import Application, Event, Scope
from thyme.config import DRAIN_BYTES, READ_BYTES
from thyme.errors import ApplicationError, Disconnected, ReadCancelled
from thyme.protocol.http import END, HTTPProtocol, Refusal, Request
from thyme.protocol.response import BODY, HINT
from thyme.protocol.scope import log_safe_path
from thyme.server.refusals import APPLICATION_FAILED, send_refusal
from thyme.server.stream import RequestStream

_LOGGER = logging.getLogger("thyme.server")

PATHSEND = "http.response.pathsend"
_RARE_EVENTS = frozenset({PATHSEND, HINT})


class HTTPCycle:
    """Call `run()` once; then `stream` is free for the next request if it returned True."""

    # Class attributes hold the initial state, because one object is made per request and most of
    # them never change: bench case `raw-page`.
    coalesce = False
    """As `Transport` defines it: the `send` of a response writes at once."""
    request_complete = False
    """The whole request has been read, or its rest will never come."""
    _returned = False  # the application has
    _draining = 0  # greenlets in `drain()`
    _refusal: Refusal | None = None  # of the request's body
    _refused_with = 0  # the status of the server's own response

    def __init__(self, stream: RequestStream, protocol: HTTPProtocol, request: Request) -> None:
        self.stream = stream
        self.response = protocol.respond_to(request)
        self._protocol = protocol
        self._continue_due = request.expects_continue
        self._read_lock = stream.read_lock

    def run(self, application: Application, scope: Scope) -> bool:
        """Let the application respond; return True if the connection can be reused.

        Logs what the application raises, and responds with 500 if nothing has been sent yet.
        """
        try:
            application.serve(scope, self)
            if not self.response.complete:
                _LOGGER.error(
                    "%s: the application returned without completing its response",
                    _request_line(scope),
                )
        except Disconnected:
            pass  # the application stopped because the peer is gone
        except Exception:
            _LOGGER.exception("%s: the application failed", _request_line(scope))
        return self._finish()

    @property
    def status(self) -> int:
        """The status that was sent."""
        return self._refused_with or self.response.status

    # Called by the application: the `Transport`.

    def receive(self) -> Event:
        """Return http.request while there is body to come, then http.disconnect.

        After the body, blocks until the peer is gone or the response is complete. The calling
        greenlet may be killed: no byte is lost.
        """
        with self._read_lock:
            try:
                if self._returned or self.response.complete:
                    pass
                elif not self.request_complete:
                    return self._next_body()
                elif self._refusal is None:
                    self.stream.wait_for_end()
            except (ReadCancelled, Disconnected):
                pass
            return {"type": "http.disconnect"}

    def receive_nowait(self) -> Event | None:
        """Return what `receive()` would, if it need not block: body that has been read already."""
        if (
            self._read_lock.locked()
            or self.request_complete
            or self._returned
            or self._continue_due
        ):
            return None
        return self._next_body() if self._protocol.events else None

    def send(self, event: Event) -> None:
        """Encode and write `event`; return when the kernel has taken it (back-pressure).

        Raises `ApplicationError` for what HTTP cannot carry, `Disconnected` when the peer is gone.
        """
        kind = event["type"]
        if kind not in _RARE_EVENTS:
            data = self._encode(event)
            if data:
                self.stream.write(data)
            if self.response.complete:
                self._wake_reader()
            elif data:
                self.stream.work_done()
        elif kind == PATHSEND:
            self._send_file(event["path"])
        else:
            self.stream.write(self.response.encode_hint(event))

    def send_nowait(self, event: Event) -> bool:
        """Encode `event`, and write it at the end of the loop iteration (`write_coalesced`).

        Never blocks. Returns False if `drain()` is due.
        """
        data = self._encode(event)
        if data and not self.stream.write_coalesced(data):
            return False
        if self.response.complete:
            self._wake_reader()
        return True

    def drain(self) -> None:
        """Return when the kernel has taken all that `send_nowait()` has written."""
        self._draining += 1
        try:
            self.stream.finish_write()
        finally:
            self._draining -= 1
        if self.response.complete:
            self._wake_reader()

    def _encode(self, event: Event) -> bytes:
        if self._returned:
            raise Disconnected("the application has returned, so its response is over")
        return self.response.encode(event)

    def _send_file(self, path: str) -> None:
        """Send the file at `path`, as it is now, as the body: ASGI's extension "Path Send"."""
        if not os.path.isabs(path):
            raise ApplicationError(f"got path {path!r}, expected an absolute one")
        with open(path, "rb") as file:
            remaining = os.fstat(file.fileno()).st_size
            self.response.expect_length(remaining)
            while remaining > READ_BYTES and (piece := file.read(READ_BYTES)):
                remaining -= len(piece)
                self.send({"type": BODY, "body": piece, "more_body": True})
            self.send({"type": BODY, "body": file.read(remaining)})

    # Reading.

    def _next_body(self) -> Event:
        if self._continue_due:
            self._send_continue()
        events = self._protocol.events
        while not events:
            if not self._read_more():
                return {"type": "http.disconnect"}
        pieces: list[bytes] = []
        while events and isinstance(events[0], bytes):
            pieces.append(events.popleft())  # type: ignore[arg-type]
        if events:
            mark = events.popleft()
            self.request_complete = True
            if isinstance(mark, Refusal):
                self._refusal = mark
                self.response.keep_alive = False
                return {"type": "http.disconnect"}
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": not self.request_complete}

    def _read_more(self) -> bool:
        """Feed the protocol what the peer sends next; return False at the end."""
        data = self.stream.read()
        if data:
            self._protocol.feed(data)
            self.stream.work_done(len(self._protocol.events))
            return True
        self.request_complete = True
        self.response.keep_alive = False
        return False

    def _send_continue(self) -> None:
        # RFC 9110 10.1.1: "A server MAY omit sending a 100 (Continue) response if it has already
        # received some or all of the content for the corresponding request". After the final
        # response has begun it would be malformed.
        self._continue_due = False
        if not self._protocol.events and not self.response.begun:
            self.stream.write(self.response.encode_continue())

    def _wake_reader(self) -> None:
        if self._read_lock.locked():
            self.stream.cancel_read()

    # The end.

    def _finish(self) -> bool:
        self._returned = True
        if self._draining:  # the application has abandoned what it sent
            self.stream.discard_coalesced()
        response, events = self.response, self._protocol.events
        if response.complete and events and events[0] is END:  # the usual case: no body to come
            events.popleft()
            self.request_complete = True
            self._wake_reader()
            return response.keep_alive
        if not response.begun:
            response.keep_alive = False
            self._refuse(self._refusal or APPLICATION_FAILED)
        elif not response.complete:
            response.keep_alive = False  # closing tells the peer that the response is cut off
        self._wake_reader()
        if not self.request_complete:
            response.keep_alive &= self._discard_body()
        return response.keep_alive

    def _refuse(self, refusal: Refusal) -> None:
        self._refused_with = refusal.status
        send_refusal(self.stream, self._protocol, refusal)

    def _discard_body(self) -> bool:
        """Read and discard the rest of the body; return False if that is too much.

        RFC 9110 10.1.1: a peer that waits for 100 Continue may never send the body now.
        """
        if self._continue_due or not self.response.keep_alive:
            return False
        budget = DRAIN_BYTES
        while budget > 0:
            event = self._next_body()
            if self.request_complete:
                return self._refusal is None and event["type"] == "http.request"
            budget -= len(event["body"])
        return False


def _request_line(scope: Scope) -> str:
    return f"{scope['method']} {log_safe_path(scope['raw_path'])}"
