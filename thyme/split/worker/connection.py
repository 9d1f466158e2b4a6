"""The worker's half of one connection: what stands behind its `receive` and `send`. No I/O.

`receive_now` gives events as they have come, `begin_send` says them; whoever has to wait is rung
(`ring`). An event counts as dealt with when the application receives the next one: until then the
server keeps it, and hands it to another worker should this one die.

How a connection ends here, and the extension "websocket.resume": `split/relay/connection.py`
describes what the application sees. Read next: `split/worker/endpoint.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from gredis.messages import pack
from thyme.asgi import Event
from thyme.errors import Disconnected
from thyme.split.flow_control import Inflow, Outflow, Window, narrower
from thyme.split.link import Link
from thyme.split.wire import (
    BACK,
    DISCONNECTS,
    END,
    EVENT_BYTES,
    HANDOVER,
    LEAVE,
    NOTE,
    NOTE_BYTES,
    PIECE_BYTES,
    RESUME,
    RETURNED,
    SEND_NOTE,
    STOPPED,
    TAKEN,
    pieces,
    restored,
    weigh,
)

CONNECT: Event = {"type": "websocket.connect"}
"""What a WebSocket begins with that is resumed; the peer has said it long ago."""


USUAL = {
    "websocket.send": frozenset({"type", "text", "bytes", "once"}),
    "http.response.body": frozenset({"type", "body", "more_body"}),
}
NOTHING: frozenset[str] = frozenset()
"""Keys of the events that need no closer look, because `weigh` has had one."""


class Taken:
    """The worker's half. `window`: what this worker takes; `soon_tell`: see `WorkerDesk`."""

    def __init__(
        self,
        link: Link,
        opening: dict[str, Any],
        window: Window,
        soon_tell: Callable[[Taken], None],
    ) -> None:
        self.link = link
        self.connection: int = opening["connection"]
        self.scope = restored(opening["scope"])
        self.type: str = self.scope["type"]
        self.begun = False
        self.how = RETURNED
        self.ring: Callable[[], None] = lambda: None
        self._soon_tell = soon_tell
        self._received: deque[Event] = deque(opening["events"])
        self._stream, self._number = opening["stream"], opening["number"]
        # Unless the one before died so early that the server keeps the first one still.
        if opening["resumes"] and self._next_type() != CONNECT["type"]:
            self._received.appendleft(CONNECT)
        self._given: Event | None = None
        self._inflow = Inflow(window)
        self._outflow = Outflow(narrower(window, Window(*opening["window"])))
        self._start: Event | None = None  # of a response, until there is a body
        self._unsent: deque[Iterator[Event]] = deque()
        resume = self.scope.get("extensions", {}).get(RESUME)
        self._offered = resume is not None
        self._resumable = bool(resume and resume.get("note") is not None)
        self._accepted = False
        self._waits = False  # the application, for the peer
        self._stops = self._left = self._handed_over = False
        self._disconnect: Event | None = None
        self._gone = False
        self._in_vain = 0

    def _next_type(self) -> str:
        return self._received[0]["type"] if self._received else ""

    # -- from the server

    def event(self, event: Event) -> None:
        """The peer has said something."""
        self._received.append(event)
        self.ring()

    def taken(self, events: int, size: int) -> None:
        """The server has got rid of so much of what we sent."""
        self._outflow.taken(events, size)
        self._send_on()
        self.ring()

    def release(self, taken_over: bool) -> None:
        """The peer has gone; `taken_over`: to another worker, if this can be resumed. Then the
        server listens to the last words, until the application has ended.
        """
        if not self._handed_over:
            self._handed_over = taken_over and self._resumable and self._accepted
            self._left = self._handed_over
            self._disconnect = {"type": HANDOVER} if self._left else DISCONNECTS[self.type]
        self._gone = self.link.over or not self._left
        if self._gone:
            self._unsent.clear()
        self.ring()

    # -- what the application calls

    def receive_now(self) -> Event | None:
        """The next event, if it is here; else None: wait to be rung, and ask again."""
        self._dealt_with()
        if self._stops and (self._accepted or not self._received):
            self._give_up()
        if self._disconnect is not None and (self._left or not self._received):
            event = self._disconnect
            if self._handed_over:
                self._disconnect = None  # once: it has some last words, perhaps, but not for ever
            return event
        self._waits = self._left or not self._received
        if self._waits:
            return None
        event = self._received.popleft()
        if event is not CONNECT:
            self._given = event
            if self._resumable:
                event["id"] = [self._stream, self._number]
            self._number += 1
        return event

    def _dealt_with(self) -> None:
        """The application asks for the next event: it has dealt with the last one."""
        event, self._given = self._given, None
        if event is None:
            return
        if self._inflow.dealt_with(weigh(event)):
            self.tell()
        elif self._resumable:
            self._soon_tell(self)

    def tell(self) -> None:
        """Tell the server what has been dealt with."""
        if self._inflow.untold and not self.link.over:
            self.link.say(self.connection, TAKEN, *self._inflow.tell())

    def begin_send(self, event: Event) -> bool:
        """Send an event as far as there is room; False when `finish_send` has to be waited for.

        The start of a response waits for its first body, as it would in a server (ASGI: it "must
        not be sent until the first body").
        """
        kind = event["type"]
        if self._gone:
            return self._send_in_vain(kind)
        if kind == "http.response.start":
            _check(event)
            self._start = event
            return True
        if kind == SEND_NOTE:
            self._keep_note(event.get("note"))
            return True
        size = weigh(event)
        if size > EVENT_BYTES and kind != "http.response.body":
            raise ValueError(f"got {size} bytes in one {kind}, at most {EVENT_BYTES} can be sent")
        if not event.keys() <= USUAL.get(kind, NOTHING):
            _check(event)
        if "once" in event:
            _check_once(event["once"])
        if size > PIECE_BYTES:
            return self._begin_send_large(event)
        if self._start is not None:
            self._say(self._take_start())
        if self._unsent:
            self._unsent.append(iter((event,)))
        else:
            self._say(event, size)
        self._accepted |= kind == "websocket.accept"
        return self.has_room

    def _send_in_vain(self, kind: str) -> bool:
        """Nobody is there any more. An application that has yet to receive the disconnect shall
        come to it, and tell its rooms: so a window of what it says to a WebSocket goes unheard.
        """
        if kind == SEND_NOTE:
            return True
        self._in_vain += 1
        if self.type == "websocket" and self._in_vain <= self._outflow.window.events:
            return True
        raise Disconnected("this connection has ended")

    def _begin_send_large(self, event: Event) -> bool:
        if self._start is not None:
            self._say(self._take_start(event))
        self._unsent.append(pieces(event))
        self._send_on()
        return self.has_room

    def _take_start(self, body: Event | None = None) -> Event:
        start: Event = self._start or {}
        self._start = None
        if body is not None and not body.get("more_body"):
            # All of it is here: a server would tell its length, but it will see it in pieces.
            headers = list(start.get("headers", ()))
            if not any(name.lower() == b"content-length" for name, _ in headers):
                headers.append((b"content-length", b"%d" % len(body.get("body", b""))))
            start = {**start, "headers": headers}
        return start

    def _say(self, event: Event, size: int | None = None) -> None:
        self._outflow.sent(weigh(event) if size is None else size)
        once = None
        if "once" in event:
            event = dict(event)
            once = event.pop("once")
        self.link.send(self.connection, event, once)

    def _send_on(self) -> None:
        """Send what waits, as far as there is room now."""
        while self._unsent and self._outflow.open:
            event = next(self._unsent[0], None)
            if event is None:
                self._unsent.popleft()
            else:
                self._say(event)

    @property
    def has_room(self) -> bool:
        """Whether all has been sent and more may be; True, too, when nobody is there any more."""
        return self._gone or (not self._unsent and self._outflow.open)

    def _keep_note(self, note: bytes | None) -> None:
        if not self._offered:
            raise ValueError(f"{SEND_NOTE!r} is an extension of ASGI that this server lacks")
        if note is not None and (not isinstance(note, bytes) or len(note) > NOTE_BYTES):
            raise ValueError(f"got a note {note!r}, expected at most {NOTE_BYTES} bytes, or None")
        self._resumable = note is not None
        self.link.say(self.connection, NOTE, note)

    # -- the end

    def stop(self) -> None:
        """This worker stops: hand the WebSocket over, or let the application receive a disconnect.

        Which of them, is decided when the application waits for the peer: it may be just about to
        accept, and to leave a note. The one that is handed over goes on until another worker has
        it; lines of the peer wait.
        """
        if self._disconnect is None and self.type == "websocket":
            self._stops = True
            if self._waits:
                self._give_up()

    def _give_up(self) -> None:
        if self._resumable and self._accepted:
            self._leave()
        elif self._disconnect is None:
            self.how = STOPPED
            self._disconnect = {"type": "websocket.disconnect", "code": 1012}
            self.ring()

    def _leave(self) -> None:
        if not self._left and not self.link.over:
            self._left = True
            self.tell()
            self.link.say(self.connection, LEAVE)

    def part(self) -> None:
        """The time to stop is over. What nobody has taken over yet the server keeps, and goes on
        looking; also what the application is busy with still, as if it had died over that.
        """
        if self._stops and (self._resumable if self._accepted else self._offered):
            self._leave()
        if self._left:
            self.release(taken_over=True)

    @property
    def parted(self) -> bool:
        """Whether it goes on elsewhere, so that the application need only return."""
        return self._left

    def give_back(self) -> None:
        """It has not been begun: another worker shall."""
        self.link.say(self.connection, BACK)

    def end(self) -> None:
        """The application has ended, as `how` says."""
        if self.how == RETURNED and self._start is not None:
            self._say(self._take_start())
        if not self.link.over:
            self.link.say(self.connection, END, self.how)


def _check(event: Event) -> None:
    """Raise what this application shall see, and not all those with whom the event would travel."""
    size = len(pack({key: value for key, value in event.items() if key != "body"}))
    if size > EVENT_BYTES:
        raise ValueError(f"got {size} bytes in {event['type']}, at most {EVENT_BYTES} can be sent")


def _check_once(once: Any) -> None:
    match once:
        case None | [str(), int()]:  # a tuple, too
            return
    raise ValueError(f"got {once!r} as 'once', expected [stream, number]: str and int")
