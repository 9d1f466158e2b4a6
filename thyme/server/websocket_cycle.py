"""One WebSocket: the `Transport` of a "websocket" scope.

Frames are read when the application asks for an event, in the greenlet that asks, and pings are
answered then. So an application that does not receive stops the peer (back-pressure).

Decided here: what the application may send when, what its end and its failures mean for the peer,
what happens to peers that do not read or do not answer, and how long the peer may take to answer a
close frame. Frames and close codes are made and read in `protocol/websocket.py`; the socket is
`server/stream.py`'s; silence is measured by `server/heartbeat.py`.

One greenlet reads at a time, the one that holds the stream's `read_lock`; others may send. When a
send changes what is to be read (the handshake was accepted; a close frame was sent, so only the
peer's matters now), the reader is woken with `cancel_read()`, and looks again.

Sources: RFC 6455 5.5, 7; https://asgi.readthedocs.io/en/latest/specs/www.html, "WebSocket".
Read next: `protocol/websocket.py`.
"""

from __future__ import annotations

import logging

import gevent
from gevent import Timeout

from thyme.asgi import Application, Event, Scope
from thyme.config import Config
from thyme.errors import ApplicationError, Disconnected, ReadCancelled, TooSlow
from thyme.protocol.close_codes import CloseCode
from thyme.protocol.http import HTTPProtocol, Refusal, Request, ResponseEncoder
from thyme.protocol.scope import log_safe_path
from thyme.protocol.websocket import WebSocket
from thyme.server.heartbeat import Heartbeat
from thyme.server.refusals import (
    APPLICATION_FAILED,
    SHUTTING_DOWN,
    WEBSOCKET_DENIED,
    send_refusal,
)
from thyme.server.stream import Stream

_LOGGER = logging.getLogger("thyme.server")

SWITCHING_PROTOCOLS = 101  # RFC 9110 15.2.2


class WebSocketCycle:
    """Call `run()` once; then the connection is to be closed.

    `coalesce`: as `Transport` defines it. `too_slow`: closed because the peer did not read.
    `status`: the HTTP status of the response to the opening handshake.
    """

    __slots__ = (
        "_config",
        "_connect_due",
        "_denial",
        "_flusher",
        "_heartbeat",
        "_protocol",
        "_read_lock",
        "_request",
        "_websocket",
        "coalesce",
        "status",
        "stream",
        "too_slow",
    )

    def __init__(
        self, stream: Stream, protocol: HTTPProtocol, request: Request, config: Config
    ) -> None:
        self.stream = stream
        self._config = config
        self._websocket = WebSocket(request, config)
        self._protocol = protocol  # both until the handshake is accepted
        self._request = request
        stream.push_back(protocol.leftover)
        self._connect_due = True
        self._denial: ResponseEncoder | None = None
        self._read_lock = stream.read_lock
        self._heartbeat: Heartbeat | None = None
        self._flusher: gevent.Greenlet | None = None
        self.coalesce = False
        self.too_slow = False
        self.status = SWITCHING_PROTOCOLS

    def run(self, application: Application, scope: Scope) -> None:
        """Let the application serve the WebSocket. Logs what it raises, and closes with 1011."""
        if self._websocket.refusal is not None:
            self._refuse(self._websocket.refusal)
            return
        code, refusal = CloseCode.NORMAL, WEBSOCKET_DENIED
        try:
            application.serve(scope, self)
        except Disconnected:
            pass  # the application stopped because the peer is gone
        except Exception:
            path = log_safe_path(scope["raw_path"])
            _LOGGER.exception("WebSocket %s: the application failed", path)
            code, refusal = CloseCode.INTERNAL_ERROR, APPLICATION_FAILED
        try:
            self._finish(code, refusal)
        finally:
            if self._heartbeat is not None:
                self._heartbeat.stop()
            if self._flusher is not None:
                self._flusher.kill()

    @property
    def messages(self) -> tuple[int, int]:
        """The numbers of messages received and sent."""
        return self._websocket.messages_received, self._websocket.messages_sent

    @property
    def peer_may_send(self) -> bool:
        """True if the peer has been accepted and has not sent its close frame."""
        return self._websocket.peer_may_send

    def go_away(self) -> None:
        """Close because the server shuts down: RFC 6455 7.4.1, 1001 "a server going down"."""
        if self._websocket.opening:
            self._refuse(SHUTTING_DOWN)
            self._wake_reader()
        else:
            self._close(CloseCode.GOING_AWAY, "")

    # Called by the application: the `Transport`.

    def receive(self) -> Event:
        """Return websocket.connect, then messages, then websocket.disconnect, again and again.

        The calling greenlet may be killed: no byte is lost.
        """
        with self._read_lock:
            if self._connect_due:
                self._connect_due = False
                return {"type": "websocket.connect"}
            events = self._websocket.events
            if not events:
                self._wait_for_event()
            return events[0] if self._websocket.ended and len(events) == 1 else events.popleft()

    def receive_nowait(self) -> Event | None:
        """Return what `receive()` would, if it need not block: an event that was read already."""
        if self._read_lock.locked() or not (self._connect_due or self._websocket.events):
            return None
        return self.receive()

    def send(self, event: Event) -> None:
        """Write `event`; return when the kernel has taken it (back-pressure).

        Raises `ApplicationError` for an event that is invalid now, `Disconnected` if the WebSocket
        is closed or the peer is gone.
        """
        kind = event["type"]
        websocket = self._websocket
        if kind == "websocket.send" and websocket.open:
            websocket.send(event)
            data = websocket.data_to_send()
            if self.coalesce:
                written = self.stream.write_coalesced(data, self._on_backlog)
            else:
                written = self.stream.begin_write(data)
            if written or self._keep_backlog():
                self.stream.work_done()
            else:
                self.drain()
        elif websocket.ended or websocket.closing:
            if kind != "websocket.close":  # closing twice is not an error
                raise Disconnected("the WebSocket is closed")
        elif kind == "websocket.send":
            raise ApplicationError(f"got {kind!r}, expected 'websocket.accept' before it")
        elif kind == "websocket.accept":
            self._accept(event)
        elif kind == "websocket.close":
            self._close_by_application(event)
        elif kind in ("websocket.http.response.start", "websocket.http.response.body"):
            self._deny(event)
        else:
            raise ApplicationError(f"got {kind!r}, expected a websocket.* event")

    def send_nowait(self, event: Event) -> bool:
        """Send a message, written at the end of the loop iteration (`Stream.write_coalesced`).

        Never blocks. Returns False if `drain()` is due.
        """
        websocket = self._websocket
        if not websocket.open:
            self.send(event)  # raises
        websocket.send(event)
        data = websocket.data_to_send()
        return self.stream.write_coalesced(data, self._on_backlog) or self._keep_backlog()

    def drain(self) -> None:
        """Return when the kernel has taken all that `send_nowait()` has written."""
        try:
            self.stream.finish_write()
        except TooSlow:
            self._close_slow_peer()
            raise

    def _accept(self, event: Event) -> None:
        self._websocket.accept(event)
        # Frees the memory of the parser: a WebSocket may live long (bench case `raw-memory`).
        del self._protocol, self._request
        self._flush()
        self._start_heartbeat()
        self._wake_reader()  # which now has frames to read

    def _close_by_application(self, event: Event) -> None:
        if self._websocket.opening:
            self._refuse(WEBSOCKET_DENIED)
        else:
            code = event.get("code")
            self._close(CloseCode.NORMAL if code is None else code, event.get("reason") or "")

    def _deny(self, event: Event) -> None:
        """Send the application's own refusal: ASGI's extension "Websocket Denial Response"."""
        if not self._websocket.opening:
            raise ApplicationError(f"got {event['type']!r}, but the opening handshake is over")
        if self._denial is None:
            self._denial = self._protocol.respond_to(self._request)
            self._denial.keep_alive = False
        data = self._denial.encode({**event, "type": event["type"].removeprefix("websocket.")})
        self.status = event.get("status", self.status)
        if data:
            self.stream.write(data)
        if self._denial.complete:
            self._websocket.refuse()

    # Reading and writing.

    def _wait_for_event(self) -> None:
        websocket = self._websocket
        while websocket.opening:
            self._wait_for_opening()
        while not (websocket.events or websocket.closing):
            self._read_more()
        if not websocket.events:
            self._wait_for_close()

    def _wait_for_opening(self) -> None:
        """Watch for the peer's end until the handshake is answered; frames have to wait."""
        try:
            self.stream.wait_for_end()
        except ReadCancelled:
            return  # accepted or refused by another greenlet
        self._websocket.receive_eof()

    def _wait_for_close(self) -> None:
        """After our close frame: wait `close_seconds` for the peer's; all else is discarded."""
        websocket = self._websocket
        with Timeout(self._config.close_seconds, False):
            while not websocket.ended:
                self._read_more()
        websocket.receive_eof()

    def _read_more(self) -> None:
        websocket = self._websocket
        if websocket.has_more:
            frames = websocket.receive_data(b"")
        else:
            try:
                data = self.stream.read()
            except ReadCancelled:
                return  # the state has changed: the caller looks again
            frames = websocket.receive_data(data) if data else websocket.receive_eof()
        if websocket.writes:  # for example a pong
            self._flush()
        self.stream.work_done(frames)

    def _flush(self) -> None:
        data = self._websocket.data_to_send()
        if data:
            try:
                self.stream.write(data)
            except Disconnected:
                self._websocket.receive_eof()

    def _close(self, code: int, reason: str) -> None:
        self._websocket.close(code, reason)
        self._flush()
        self._wake_reader()  # which now waits for the peer's close frame only

    def _wake_reader(self) -> None:
        if self._read_lock.locked():
            self.stream.cancel_read()

    # Peers that do not read.

    def _keep_backlog(self) -> bool:
        """Return True if what the kernel does not take may be kept (`Config.slow_bytes`).

        Raises `TooSlow`, and closes with 1013, when too much has been kept.
        """
        limit = self._config.slow_bytes
        if limit is None:
            return False
        if self.stream.unsent > limit:
            self._close_slow_peer()
            raise TooSlow(f"the peer has left more than {limit} bytes unread")
        self._flush_in_background()
        return True

    def _on_backlog(self) -> None:
        """Called by the hub: the kernel has not taken all that was coalesced."""
        if not (self.too_slow or self._keep_backlog()):
            self._flush_in_background()

    def _flush_in_background(self) -> None:
        if self._flusher is None or self._flusher.ready():
            self._flusher = gevent.spawn(self._drain_quietly)

    def _drain_quietly(self) -> None:
        try:
            self.drain()
        except Disconnected:
            pass  # the next `send` raises it

    def _close_slow_peer(self) -> None:
        """Close with 1013; the peer has `close_seconds` to read all that was sent before."""
        self.too_slow = True
        self.stream.write_timeout = None
        self._fail(CloseCode.TRY_AGAIN_LATER, "too slow")
        gevent.spawn_later(self._config.close_seconds, self.stream.close)

    # Peers that do not answer.

    def _start_heartbeat(self) -> None:
        config = self._config
        if config.ping_seconds is not None:
            self._heartbeat = Heartbeat(
                self.stream,
                config.ping_seconds,
                config.pong_seconds,
                send_ping=self._ping,
                on_timeout=lambda: self._fail(CloseCode.INTERNAL_ERROR, "no answer to a ping"),
                is_reading=self._read_lock.locked,
            )

    def _ping(self) -> None:
        self._websocket.ping()
        self._begin_flush()

    def _fail(self, code: int, reason: str) -> None:
        self._websocket.fail(code, reason)
        self._begin_flush()
        self._wake_reader()

    def _begin_flush(self) -> None:
        """Write without blocking: what the kernel does not take waits for the next writer."""
        try:
            self.stream.begin_write(self._websocket.data_to_send())
        except Disconnected:
            pass  # the next `send` raises it

    # The end.

    def _refuse(self, refusal: Refusal) -> None:
        """Respond to the opening handshake with plain HTTP, unless a response has begun."""
        self._websocket.refuse()
        self.status = refusal.status
        if self._denial is not None and self._denial.begun:
            return  # the application's own response, which stays incomplete
        send_refusal(self.stream, self._protocol, refusal)

    def _finish(self, code: int, refusal: Refusal) -> None:
        websocket = self._websocket
        if websocket.opening:
            self._refuse(refusal)
            return
        if websocket.ended and self.stream.unsent:
            self._finish_writing()  # after 1013, nothing more is sent
        self._close(code, "")
        with self._read_lock:
            websocket.events.clear()
            self._wait_for_close()

    def _finish_writing(self) -> None:
        try:
            with Timeout(self._config.close_seconds, False):
                self.stream.finish_write()
        except Disconnected:
            pass
