"""The worker's end of one connection: what is behind the application's receive and send. No I/O.

`receive_nowait` returns events that have arrived, `send_nowait` sends. A caller that has to wait is
notified (`notify`), and tries again. Subclasses do the waiting: `split/worker/gevent.py` and
`split/worker/asyncio.py`.

An event counts as consumed when the application receives the next one. Until then the relay keeps
it, and offers it to another worker if this one dies.

How a worker leaves a connection is in the table `OWNERSHIP` of `split/states.py`; what the
application sees of that is the extension "websocket.resume", which `split/relay/connection.py`
specifies. Read next: `split/worker/endpoint.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from gredis.messages import pack
from thyme.asgi import Event
from thyme.errors import Disconnected
from thyme.protocol.close_codes import CloseCode
from thyme.split.flow_control import ReceiveWindow, SendWindow, Window, min_window
from thyme.split.link import Link
from thyme.split.states import (
    APPLICATION,
    OWNERSHIP,
    ApplicationState,
    ApplicationTrigger,
    OwnershipState,
    OwnershipTrigger,
    next_state,
)
from thyme.split.wire import (
    CHUNK_BYTES,
    DISCONNECTS,
    END,
    EVENT_BYTES,
    HANDOVER,
    LEAVE,
    NOTE,
    NOTE_BYTES,
    REQUEUE,
    RESUME,
    RESUME_NOTE,
    RETURNED,
    STOPPED,
    WINDOW_UPDATE,
    decode_scope,
    event_size,
    split_event,
)

CONNECT: Event = {"type": "websocket.connect"}
"""The first event of a WebSocket that is resumed. The peer's own was consumed long ago."""

RESTART: Event = {"type": "websocket.disconnect", "code": CloseCode.SERVICE_RESTART.value}
"""The disconnect of a WebSocket that cannot be resumed, when the worker stops."""

CHECKED_KEYS = {
    "websocket.send": frozenset({"type", "text", "bytes", "once"}),
    "http.response.body": frozenset({"type", "body", "more_body"}),
}
"""Keys that an event may have and need no check by `_check`: `event_size` has looked at them."""

NO_KEYS: frozenset[str] = frozenset()

# Looked up once: each access to a member of an enum costs as much as a small function call, and
# these two are needed for every event (bench: room-100, "thyme split").
_SERVING, _DISCONNECTED = OwnershipState.SERVING, OwnershipState.DISCONNECTED


class WorkerConnection(ABC):
    """The worker's end of one connection.

    `queue`: where it was taken from; `window`: how much this worker accepts of it.
    `acknowledge_soon(connection)` is called when an event was consumed that should be acknowledged
    before long, even if that takes a message of its own.
    """

    coalesce = False
    """As of `Transport`: it makes no difference, because a link coalesces everything."""

    def __init__(
        self,
        link: Link,
        queue: str,
        opening: dict[str, Any],
        window: Window,
        acknowledge_soon: Callable[[WorkerConnection], None],
    ) -> None:
        self.link = link
        self.queue = queue
        self.number: int = opening["connection"]
        self.scope = decode_scope(opening["scope"])
        self.type: str = self.scope["type"]
        self.application = ApplicationState.ASSIGNED
        self.ownership = OwnershipState.SERVING
        self._acknowledge_soon = acknowledge_soon
        self._outcome = RETURNED
        self._received: deque[Event] = deque(opening["events"])
        self._stream: str = opening["stream"]
        self._next_number: int = opening["number"]  # of the first one in _received
        # A successor begins with a connect, unless the worker before it died so early that the
        # relay has kept the peer's own.
        first_type = self._received[0]["type"] if self._received else ""
        if opening["resumes"] and first_type != CONNECT["type"]:
            self._received.appendleft(CONNECT)
        self._unconsumed_size = 0  # of the event that the application has received last
        self._receive_window = ReceiveWindow(window)
        self._send_window = SendWindow(min_window(window, Window(*opening["window"])))
        self._response_start: Event | None = None  # kept until there is a body
        self._unsent: deque[Iterator[Event]] = deque()  # parts of large events
        resume = self.scope.get("extensions", {}).get(RESUME)
        self._can_resume = resume is not None  # the relay supports it
        self._has_note = bool(resume and resume.get("note") is not None)
        self._discarded = 0  # events sent to a peer that is gone

    @abstractmethod
    def notify(self) -> None:
        """Wake those that wait for an event, or for room to send."""

    def _fire(self, trigger: OwnershipTrigger) -> None:
        self.ownership = next_state(OWNERSHIP, self.ownership, trigger)

    def _fire_application(self, trigger: ApplicationTrigger) -> None:
        self.application = next_state(APPLICATION, self.application, trigger)

    @property
    def started(self) -> bool:
        """Return whether the application has been called."""
        return self.application is not ApplicationState.ASSIGNED

    @property
    def _resumable(self) -> bool:
        """Return whether another worker can continue where this one stops."""
        return self._has_note and self.application is ApplicationState.ACCEPTED

    @property
    def _peer_gone(self) -> bool:
        return self.ownership is _DISCONNECTED or self.link.closed

    # -- entries from the relay

    def handle_event(self, event: Event) -> None:
        """Queue an event from the peer for the application."""
        self._received.append(event)
        self.notify()

    def handle_window_update(self, events: int, size: int) -> None:
        """The peer has read so much of what was sent: continue to send."""
        self._send_window.acknowledged(events, size)
        self._send_waiting()
        self.notify()

    def handle_release(self, taken_over: bool) -> None:
        """This worker is out of charge: another one has taken over, or else the peer is gone.

        After a takeover the relay accepts the application's last messages, until it has ended.
        """
        if taken_over and self._resumable:
            self._fire(OwnershipTrigger.SUCCEED)
        else:
            self._fire(OwnershipTrigger.DISCONNECT)
        if self._peer_gone:
            self._unsent.clear()
        self.notify()

    # -- receiving

    def receive_nowait(self) -> Event | None:
        """Return the next event, or None: wait for `notify`, and call again.

        Asking for an event is a message in itself. It says that the application has consumed the
        last one; and, if the worker is stopping, that this is a good moment to leave.
        """
        if self._unconsumed_size:
            self._consume_last_event()
        if self.ownership is not _SERVING:
            if self.ownership is OwnershipState.STOPPING:
                self._leave_or_close()
            return self._next_event_at_the_end()
        return self._next_received() if self._received else None

    def _consume_last_event(self) -> None:
        size, self._unconsumed_size = self._unconsumed_size, 0
        if self._receive_window.consumed(size):
            self.acknowledge()
        elif self._has_note:
            self._acknowledge_soon(self)

    def acknowledge(self) -> None:
        """Tell the relay what has been consumed."""
        if self._receive_window.pending_ack and not self.link.closed:
            self.link.send(self.number, WINDOW_UPDATE, *self._receive_window.take_ack())

    def _leave_or_close(self) -> None:
        """Leave the WebSocket to another worker if possible; else let the application close it.

        Not before the application has accepted, unless it waits for the peer without doing so.
        """
        if self._resumable:
            self._leave()
        elif self.application is ApplicationState.ACCEPTED or not self._received:
            self._outcome = STOPPED
            self._fire(OwnershipTrigger.CLOSE)

    def _leave(self) -> None:
        if not self.link.closed:
            self._fire(OwnershipTrigger.LEAVE)
            self.acknowledge()
            self.link.send(self.number, LEAVE)

    def _next_event_at_the_end(self) -> Event | None:
        """Return the next event when this worker does not simply serve the connection any more."""
        state = self.ownership
        if state in (OwnershipState.LEAVING, OwnershipState.HANDED_OVER):
            return None
        if state is OwnershipState.SUCCEEDED:
            self._fire(OwnershipTrigger.DELIVER)
            return {"type": HANDOVER}
        if self._received:
            return self._next_received()
        if state is OwnershipState.CLOSING:
            return dict(RESTART)
        if state is OwnershipState.DISCONNECTED:
            return dict(DISCONNECTS[self.type])
        return None

    def _next_received(self) -> Event:
        event = self._received.popleft()
        if event is not CONNECT:  # ours is not among those that the relay has numbered
            self._unconsumed_size = event_size(event)
            if self._has_note:
                event["id"] = [self._stream, self._next_number]
            self._next_number += 1
        return event

    # -- sending

    def send_nowait(self, event: Event) -> bool:
        """Send an event as far as there is room; return whether there is room for another one.

        If not, wait for `notify`, until `has_room`. The start of a response is kept until the first
        body: it "must not be sent" before (ASGI). Raises `Disconnected` when the peer is gone,
        `ValueError` or `TypeError` for an event that cannot be sent to another process.
        """
        kind = event["type"]
        if self.ownership is _DISCONNECTED or self.link.closed:
            return self._discard(kind)
        if kind == "http.response.start":
            _check(event)
            self._response_start = event
            return True
        if kind == RESUME_NOTE:
            self._send_note(event.get("note"))
            return True
        size = event_size(event)
        if size > EVENT_BYTES and kind != "http.response.body":
            raise ValueError(f"got {size} bytes in one {kind}, at most {EVENT_BYTES} are allowed")
        if not event.keys() <= CHECKED_KEYS.get(kind, NO_KEYS):
            _check(event)
        if "once" in event:
            _check_once(event["once"])
        if size > CHUNK_BYTES:
            return self._send_large(event)
        if self._response_start is not None:
            self._send_response_start()
        if self._unsent:
            self._unsent.append(iter((event,)))
        else:
            self._send(event, size)
        if kind == "websocket.accept":
            self._fire_application(ApplicationTrigger.ACCEPT)
        return self.has_room

    @property
    def has_room(self) -> bool:
        """Return whether everything has been sent and more may be; True if the peer is gone."""
        return (not self._unsent and self._send_window.open) or self._peer_gone

    def _discard(self, kind: str) -> bool:
        """Discard an event, because the peer is gone.

        Up to one window of events on a WebSocket is discarded, so that the application gets to its
        disconnect handler, which informs the rooms. After that, raise `Disconnected`.
        """
        if kind == RESUME_NOTE:
            return True
        self._discarded += 1
        if self.type == "websocket" and self._discarded <= self._send_window.window.events:
            return True
        raise Disconnected("the peer is gone: this connection has ended")

    def _send(self, event: Event, size: int) -> None:
        self._send_window.sent(size)
        once = None
        if "once" in event:
            event = dict(event)
            once = event.pop("once")
        self.link.send_output(self.number, event, size, once)

    def _send_large(self, event: Event) -> bool:
        if self._response_start is not None:
            self._send_response_start(event)
        self._unsent.append(split_event(event))
        self._send_waiting()
        return self.has_room

    def _send_waiting(self) -> None:
        """Send what waits, as far as there is room now."""
        while self._unsent and self._send_window.open:
            event = next(self._unsent[0], None)
            if event is None:
                self._unsent.popleft()
            else:
                self._send(event, event_size(event))

    def _send_response_start(self, body: Event | None = None) -> None:
        start: Event = self._response_start or {}
        self._response_start = None
        if body is not None and not body.get("more_body"):
            # The body is complete, but the server receives it in parts, and would not know its
            # length: add the field that the server adds to a complete response.
            headers = list(start.get("headers", ()))
            if not any(name.lower() == b"content-length" for name, _ in headers):
                headers.append((b"content-length", b"%d" % len(body.get("body", b""))))
            start = {**start, "headers": headers}
        self._send(start, event_size(start))

    def _send_note(self, note: bytes | None) -> None:
        if not self._can_resume:
            raise ValueError(f"{RESUME_NOTE!r} is an ASGI extension that this server lacks")
        if note is not None and (not isinstance(note, bytes) or len(note) > NOTE_BYTES):
            raise ValueError(f"got a note {note!r}, expected at most {NOTE_BYTES} bytes, or None")
        self._has_note = note is not None
        self.link.send(self.number, NOTE, note)

    # -- the life of the connection

    def start(self) -> None:
        """The application is about to be called."""
        self._fire_application(ApplicationTrigger.START)

    def stop(self) -> None:
        """This worker stops: leave the WebSocket, or end it, when the application next receives.

        A WebSocket that is left is served until another worker has taken over. A request is
        finished, so nothing happens.
        """
        if self.type == "websocket" and self.ownership is OwnershipState.SERVING:
            self._fire(OwnershipTrigger.STOP)
            self.notify()  # it may be receiving already

    def hand_over(self) -> None:
        """The time to stop is over: leave the WebSocket to the relay as it is.

        The relay goes on looking for a successor. What the application has not consumed is
        delivered to that one, as if this worker had died.
        """
        stopping = self.ownership in (OwnershipState.STOPPING, OwnershipState.CLOSING)
        accepted = self.application is ApplicationState.ACCEPTED
        if stopping and (self._has_note if accepted else self._can_resume):
            self._leave()
        if self.ownership is OwnershipState.LEAVING:
            self.handle_release(taken_over=True)

    @property
    def handed_over(self) -> bool:
        """Return whether another worker has the connection: the application need only return."""
        return self.ownership in (OwnershipState.SUCCEEDED, OwnershipState.HANDED_OVER)

    def requeue(self) -> None:
        """Return a connection to the relay whose application has not been started."""
        self._fire_application(ApplicationTrigger.END)
        self.link.send(self.number, REQUEUE)

    def end(self, outcome: str | None) -> None:
        """Tell the relay that the application has ended. None: it has returned."""
        self._fire_application(ApplicationTrigger.END)
        outcome = outcome or self._outcome
        if self.link.closed:
            return
        if outcome == RETURNED and self._response_start is not None:
            self._send_response_start()
        self.link.send(self.number, END, outcome)


def _check(event: Event) -> None:
    """Raise now what packing the batch would raise: there it would hit other connections."""
    size = len(pack({key: value for key, value in event.items() if key != "body"}))
    if size > EVENT_BYTES:
        raise ValueError(f"got {size} bytes in {event['type']}, at most {EVENT_BYTES} are allowed")


def _check_once(once: Any) -> None:
    match once:
        case None | [str(), int()]:  # or a tuple
            return
    raise ValueError(f"got {once!r} as 'once', expected [stream, number]: str and int")
