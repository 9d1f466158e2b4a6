"""One WebSocket: what `receive()` and `send()` of a "websocket" scope do.

Frames are read when the application asks for an event, in the greenlet that asks, and a ping is
answered then: an application that does not receive stops the peer (back-pressure). Decided here:
when the application may send what, what its end and its failures mean for the peer, and how long
we wait for the peer's close frame.

Frames and codes are `protocol/websocket.py`'s matter; the socket is `server/stream.py`.
"""

from __future__ import annotations

import logging

import gevent
from gevent import Timeout

from thyme.asgi import Application, Event, Scope
from thyme.config import Config
from thyme.errors import ApplicationError, Disconnected, ReadCancelled, TooSlow
from thyme.protocol.close_codes import CloseCode
from thyme.protocol.head_rules import Header, Refusal
from thyme.protocol.http11 import Request
from thyme.protocol.response import Response, refusal_response
from thyme.protocol.scope import written
from thyme.protocol.websocket import WebSocket
from thyme.server.heartbeat import Heartbeat
from thyme.server.stream import Stream

_LOGGER = logging.getLogger("thyme.server")

SWITCHING = 101  # RFC 9110 15.2.2

_DENIED = Refusal(403, "the application refused this WebSocket")
_FAILED = Refusal(500, "the application failed")
_STOPPING = Refusal(503, "the server stops")


class Conversation:
    """Call `run()` once, after which the connection is to be closed."""

    __slots__ = (
        "_config",
        "_connect_due",
        "_denial",
        "_flushing",
        "_heartbeat",
        "_reading",
        "_websocket",
        "coalesce",
        "given_up",
        "status",
        "stream",
    )

    def __init__(self, stream: Stream, request: Request, leftover: bytes, config: Config) -> None:
        self.stream = stream
        self._config = config
        self._websocket = WebSocket(request, config)
        stream.unread(leftover)
        self._connect_due = True
        self._denial: Response | None = None
        self._reading = stream.reader
        self._heartbeat: Heartbeat | None = None
        self._flushing: gevent.Greenlet | None = None
        stream.on_backlog = self._left_a_rest
        self.coalesce = False  # `send`, too, leaves messages to the end of this round of the hub
        self.given_up = False  # as a slow client
        self.status = SWITCHING  # what the handshake was answered with, for the access log

    def run(self, application: Application, scope: Scope) -> None:
        """Let the application converse. What it raises is logged, and closes with 1011."""
        if self._websocket.refusal is not None:
            self._refuse(self._websocket.refusal)
            return
        code, refusal = CloseCode.NORMAL, _DENIED
        try:
            application.serve(scope, self)
        except Disconnected:
            pass  # it has learned that nobody listens any more, and has given up
        except Exception:
            _LOGGER.exception("WebSocket %s: the application failed", written(scope["raw_path"]))
            code, refusal = CloseCode.INTERNAL_ERROR, _FAILED
        try:
            self._finish(code, refusal)
        finally:
            if self._heartbeat is not None:
                self._heartbeat.stop()
            if self._flushing is not None:
                self._flushing.kill()

    @property
    def messages(self) -> tuple[int, int]:
        """How many were received, and sent."""
        return self._websocket.messages_received, self._websocket.messages_sent

    @property
    def peer_sends(self) -> bool:
        """Whether the peer may still send frames: it was accepted, and has not said goodbye."""
        return self._websocket.peer_sends

    def go_away(self) -> None:
        """The server stops: RFC 6455 7.4.1, 1001 "a server going down"."""
        if self._websocket.opening:
            self._refuse(_STOPPING)
            self._wake_reader()
        else:
            self._close(CloseCode.GOING_AWAY, "")

    # What the application calls.

    def receive(self) -> Event:
        """websocket.connect, then what the peer says, then websocket.disconnect (again and again).

        May be killed: no byte is lost.
        """
        with self._reading:
            if self._connect_due:
                self._connect_due = False
                return {"type": "websocket.connect"}
            events = self._websocket.events
            if not events:
                self._wait_for_event()
            return events[0] if self._websocket.ended and len(events) == 1 else events.popleft()

    def send(self, event: Event) -> None:
        """Write `event`; returns when the kernel has taken it (back-pressure).

        Raises `ApplicationError` for what has no place here, `Disconnected` when the WebSocket is
        closed or the peer is gone.
        """
        kind = event["type"]
        websocket = self._websocket
        if kind == "websocket.send" and websocket.open:
            websocket.send(event)
            write = self.stream.gather if self.coalesce else self.stream.begin_write
            if write(websocket.data_to_send()) or self._keeps():
                self.stream.work_done()
            else:
                self.drain()
        elif websocket.ended or websocket.closing:
            if kind != "websocket.close":  # to close what is closed is no mistake
                raise Disconnected("the WebSocket is closed")
        elif kind == "websocket.send":
            raise ApplicationError(f"got {kind!r}, expected 'websocket.accept' before it")
        elif kind == "websocket.accept":
            websocket.accept(event)
            self._flush()
            self._watch()
            self._wake_reader()  # from now on, frames are read
        elif kind == "websocket.close":
            self._close_by_application(event)
        elif kind in ("websocket.http.response.start", "websocket.http.response.body"):
            self._deny(event)
        else:
            raise ApplicationError(f"got {kind!r}, expected a websocket.* event")

    def send_nowait(self, event: Event) -> bool:
        """`send` of a message, for who gives the hub back soon (`Stream.gather`).

        Never blocks; False when `drain()` is due.
        """
        websocket = self._websocket
        if not websocket.open:
            self.send(event)  # raises
        websocket.send(event)
        return self.stream.gather(websocket.data_to_send()) or self._keeps()

    def drain(self) -> None:
        """Return when the kernel has taken what `send_nowait()` has left."""
        try:
            self.stream.finish_write()
        except TooSlow:
            self._give_up()
            raise

    def receive_nowait(self) -> Event | None:
        """What `receive()` would give without blocking: an event that is here already."""
        if self._reading.locked() or not (self._connect_due or self._websocket.events):
            return None
        return self.receive()

    def _close_by_application(self, event: Event) -> None:
        if self._websocket.opening:
            # ASGI: "If this is sent before the socket is accepted, the server must close the
            # connection with a HTTP 403 error code".
            self._refuse(_DENIED)
        else:
            code = event.get("code")
            self._close(CloseCode.NORMAL if code is None else code, event.get("reason") or "")

    def _deny(self, event: Event) -> None:
        """The application's own refusal: ASGI's extension "Websocket Denial Response"."""
        if not self._websocket.opening:
            raise ApplicationError(f"got {event['type']!r}, but the handshake is over")
        if self._denial is None:
            self._denial = Response("GET", "1.1", False, self._config.server_header)
        data = self._denial.encode({**event, "type": event["type"].removeprefix("websocket.")})
        self.status = event.get("status", self.status)
        if data:
            self.stream.write(data)
        if self._denial.complete:
            self._websocket.refused()

    # Bytes.

    def _wait_for_event(self) -> None:
        websocket = self._websocket
        while websocket.opening:
            self._wait_for_opening()
        while not (websocket.events or websocket.closing):
            self._read_more()
        if not websocket.events:
            self._wait_for_goodbye()

    def _wait_for_opening(self) -> None:
        """Watch the peer while nothing is accepted yet; frames that it sends must wait."""
        try:
            self.stream.wait_for_end()
        except ReadCancelled:
            return  # accepted or refused, by another greenlet
        self._websocket.receive_eof()

    def _wait_for_goodbye(self) -> None:
        """We have sent a close frame: wait for the peer's, which is all that matters now."""
        websocket = self._websocket
        with Timeout(self._config.close_seconds, False):
            while not websocket.ended:
                self._read_more()
        websocket.receive_eof()

    def _read_more(self) -> None:
        websocket = self._websocket
        if websocket.holds:
            frames = websocket.receive_data(b"")
        else:
            try:
                data = self.stream.read()
            except ReadCancelled:
                return  # something has changed: our caller looks again
            frames = websocket.receive_data(data) if data else websocket.receive_eof()
        if websocket.writes:  # a pong, say
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
        self._wake_reader()  # from now on, only the goodbye is waited for

    def _wake_reader(self) -> None:
        if self._reading.locked():
            self.stream.cancel_read()

    # Peers that do not read, and peers that do not answer.

    def _keeps(self) -> bool:
        """Whether what the kernel does not take may be kept for a while (`Config.slow_bytes`)."""
        kept = self._config.slow_bytes
        if kept is None:
            return False
        if self.stream.unsent > kept:
            self._give_up()
            raise TooSlow(f"the peer has left more than {kept} bytes unread")
        self._flush_in_background()
        return True

    def _left_a_rest(self) -> None:
        """The kernel has not taken all that was gathered; called by the hub."""
        if not (self.given_up or self._keeps()):
            self._flush_in_background()

    def _flush_in_background(self) -> None:
        if self._flushing is None or self._flushing.ready():
            self._flushing = gevent.spawn(self._flush_behind)

    def _flush_behind(self) -> None:
        try:
            self.drain()
        except Disconnected:
            pass  # the next `send` will tell

    def _give_up(self) -> None:
        """Close with 1013 a peer that does not read; it has `close_seconds` to do so after all."""
        self.given_up = True
        self.stream.patience = None
        self._fail(CloseCode.TRY_AGAIN_LATER, "too slow")
        gevent.spawn_later(self._config.close_seconds, self.stream.close)

    def _watch(self) -> None:
        config = self._config
        if config.ping_seconds is not None:
            self._heartbeat = Heartbeat(
                self.stream,
                config.ping_seconds,
                config.pong_seconds,
                ping=self._ping,
                lost=lambda: self._fail(CloseCode.INTERNAL_ERROR, "no answer to a ping"),
                listening=self._reading.locked,
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
            pass

    # The end.

    def _refuse(self, refusal: Refusal) -> None:
        """Answer the handshake with plain HTTP, once."""
        self._websocket.refused()
        self.status = refusal.status
        if self._denial is not None and self._denial.begun:
            return  # the application's own answer has begun, and stays incomplete
        fields: tuple[Header, ...] = ()
        if refusal.status == 426:
            # RFC 6455 4.4; RFC 9110 15.5.22: 426 "MUST send an Upgrade header field".
            fields = ((b"sec-websocket-version", b"13"), (b"upgrade", b"websocket"))
        try:
            self.stream.write(refusal_response(refusal, self._config.server_header, *fields))
        except Disconnected:
            pass

    def _finish(self, code: int, refusal: Refusal) -> None:
        websocket = self._websocket
        if websocket.opening:
            self._refuse(refusal)
            return
        if websocket.ended and self.stream.unsent:
            self._finish_writing()  # 1013 is the last that it is told
        self._close(code, "")
        with self._reading:
            websocket.events.clear()
            self._wait_for_goodbye()

    def _finish_writing(self) -> None:
        try:
            with Timeout(self._config.close_seconds, False):
                self.stream.finish_write()
        except Disconnected:
            pass
