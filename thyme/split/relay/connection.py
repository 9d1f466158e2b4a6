"""The server's half of one connection: what its relay knows and decides. No I/O.

Events of the peer go in (`from_peer`), events for the peer come out (`output`); what a worker says
comes in by the methods named like its kinds of entry. Whoever waits is rung: `output.ring` when
there is something for the peer or all is over, `ring_room` when the peer may be read again.

An *attempt* (`split/relay/assignment.py`) is one worker at work on the connection. There is one,
usually for good. A WebSocket that can be resumed gets another one when its worker stops or dies,
here is the extension for it.

    The ASGI extension "websocket.resume"

    scope["extensions"]["websocket.resume"] = {"note_bytes": int, "note": bytes or None}

    The server can keep a WebSocket open when the process of the application ends, and open it
    again in another one. An application that can go on sends, any time after it has accepted,

        {"type": "websocket.resume.note", "note": bytes}

    and whenever that changes; None takes it back. It is at most "note_bytes" long, and says what
    the next process needs to know that the scope does not: for a chat, the rooms. From then on:

    *   When the process stops, the application receives {"type": "websocket.handover"} instead of
        a disconnect, as its last event: somebody else is at work already. Say what has come until
        now, tell nobody else, return.
    *   When the process has died, there is nothing to receive.
    *   Either way the application is called again, with the scope of the beginning and the last
        note in the extension ("note" is None the first time). It receives "websocket.connect" as
        ever. When it accepts, nothing is sent to the peer, who has noticed nothing, and a process
        that stops and has gone on till then is told to stand aside: so accept when all is ready.
        What had reached that one comes first, then what this one says.
        When it closes instead, the peer is told with its code, 1012 if it has none.

    What is promised of each line of the peer ("websocket.receive") and of its disconnect: they are
    handed over in order, and again if the application that received them died before it had
    received the next event (that is how the server knows that one has been dealt with). Once there
    is a note they carry "id": [stream, number], the same when one is handed over again. So each is
    dealt with at least once, and exactly once when the process stops and has the time for it. A
    line that `LIVES` processes have died of is handed over no more: the peer is told 1012.

    What is promised of what the application sends: all that a process handed over before it died.
    The last lines may be said twice, by the one that died and by its successor. Where that matters
    "websocket.send" carries "once": [stream, number] of one's choice, the peer's "id" for example:
    of those with the same stream and a number not above the last one, none is sent again to this
    peer. The server remembers that of the last `STREAMS` streams.

Taught in notebooks/13_when_things_die.ipynb.
Read next: `split/endpoint.py`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from thyme.asgi import Event, Scope
from thyme.errors import WorkerLost
from thyme.split.flow_control import Inflow, Outflow, Queue, Window, narrower
from thyme.split.link import Link
from thyme.split.relay.assignment import Attempt
from thyme.split.relay.output import Output
from thyme.split.wire import (
    DISCONNECTS,
    EVENT,
    EVENT_BYTES,
    FAILED,
    NOTE,
    NOTE_BYTES,
    OLDEST,
    PIECE_BYTES,
    RELEASE,
    RESUME,
    STOPPED,
    TOO_BIG,
    VERSION,
    pairs,
    pieces,
    plain_response,
    portable,
    weigh,
)

log = logging.getLogger("thyme.relay")

STREAMS = 256
"""Streams of "once" that are remembered per WebSocket: those who spoke lately, not all who do."""

LIVES = 2
"""Workers that may die while they deal with the same line: it may be the line that kills them."""

OPENING_BYTES = 2 * PIECE_BYTES
"""Bytes of the peer's events in an opening; the rest follows when a worker has taken it."""

DENIAL = "websocket.http.response"
"""ASGI's extension for that."""


class Relayed:
    """The server's half."""

    def __init__(self, scope: Scope, stream: str, window: Window, queue: Queue) -> None:
        self.queue = queue
        self.type: str = scope["type"]
        self.attempt: Attempt | None = None
        self.leaving: Attempt | None = None
        self.over = False
        self.gone = False  # the peer
        self.error: Exception | None = None
        self.output = Output(self._dealt_with, self.fail)
        self.ring_room: Callable[[], None] = lambda: None
        self._scope = portable(scope)
        self._stream = stream
        self._window = window
        self._events: deque[tuple[Event, int]] = deque()  # of the peer, not yet dealt with
        self._first = 1  # number of the first of them
        self._outflow = Outflow(window)  # counts what is in _events
        self._under_way = 0  # events that the peer has yet to take
        self._of_others = 0  # the first of these: of a worker that speaks no more
        self._begun = False  # the peer is being answered: accepted, or the response begun
        self._early: deque[tuple[Event, int, Any]] = deque()  # what a successor says too soon
        self.soon_settle: Callable[[Attempt], None] = lambda attempt: None
        self._note: bytes | None = None
        self._once: dict[str, int] = {}
        self._deaths = 0  # since the last event that was dealt with

    # -- from the peer

    @property
    def has_room(self) -> bool:
        """Whether the peer may be read."""
        return self._outflow.open

    def from_peer(self, event: Event) -> None:
        """The peer has said something."""
        if event["type"] == "websocket.receive" and weigh(event) > EVENT_BYTES:
            self._too_big(event)
        else:
            for piece in pieces(event):
                self._tell(piece)

    def _tell(self, event: Event) -> None:
        self.gone = event["type"] == DISCONNECTS[self.type]["type"]
        weight = weigh(event)
        self._events.append((event, weight))
        self._outflow.sent(weight)
        attempt = self.attempt
        if attempt is not None and attempt.link is not None:
            attempt.told += 1
            attempt.say(EVENT, event)

    def _too_big(self, event: Event) -> None:
        """Nobody can carry it: the peer is told so, and to the application it has left."""
        self._tell({"type": "websocket.disconnect", "code": TOO_BIG})
        reason = f"a message of {weigh(event)} bytes, at most {EVENT_BYTES} can be carried"
        self.refuse(413, TOO_BIG, reason)

    # -- attempts

    def begin_attempt(self, connection: int) -> Attempt:
        """Somebody else shall deal with it from here on."""
        resumes = self._begun and self.type == "websocket"
        self.attempt = Attempt(connection, self._first, resumes, Inflow(self._window))
        if self.leaving is None:
            self._of_others = self._under_way
        return self.attempt

    def opening(self, attempt: Attempt, sender: str, lifeline: str | None) -> dict[str, Any]:
        """What a worker has to know to take it."""
        events = self._first_events()
        attempt.told = self._first + len(events)
        if self.type == "websocket":
            resume = {"note_bytes": NOTE_BYTES, "note": self._note}
            self._scope["extensions"][RESUME] = resume
        return {
            "version": VERSION,
            "oldest": OLDEST,
            "from": sender,
            "connection": attempt.connection,
            "scope": self._scope,
            "events": events,
            "number": self._first,
            "stream": self._stream,
            "resumes": attempt.resumes,
            "window": [self._window.events, self._window.bytes],
            "lifeline": lifeline,
        }

    def _first_events(self) -> list[Event]:
        """Those that travel with an opening: it may have to wait in Redis, with many others."""
        total, events = 0, []
        for event, weight in self._events:
            total += weight
            if total > OPENING_BYTES:
                break
            events.append(event)
        return events

    @property
    def resumable(self) -> bool:
        """Whether another worker can go on."""
        if self.over or self.type != "websocket":
            return False
        return self._note is not None or not (self._begun or self.gone)

    def hello(self, attempt: Attempt, link: Link, window: Window) -> None:
        """A worker has taken it: tell it what has come meanwhile."""
        attempt.link = link
        attempt.inbox = link.inbox
        self._outflow.window = narrower(self._window, window)
        missing = self._first + len(self._events) - attempt.told
        for event, _ in list(self._events)[len(self._events) - missing :]:
            attempt.told += 1
            attempt.say(EVENT, event)

    # -- from the worker

    def event(
        self,
        attempt: Attempt,
        event: Event,
        weight: int,
        once: Any,
    ) -> None:
        """The application has sent something."""
        if self.over or not self._speaks(attempt, event["type"]):
            return
        if attempt is self.attempt and attempt.accepted and self.leaving is not None:
            self._early.append((event, weight, once))  # after all that the other one has to say
            return
        kind = event["type"]
        if kind == "websocket.accept":
            attempt.accepted = True
            if attempt.resumes:
                self._take_over()
                attempt.dealt_with(weight)
                return
        elif kind == "websocket.close":
            self._note = None  # it wants to end
            if attempt.resumes and not attempt.accepted:
                event = {**event, "code": event.get("code") or 1012}
                self._take_over()
        if once is not None and self._said_before(once):
            attempt.dealt_with(weight)
        else:
            self._deliver(event, weight)

    def _speaks(self, attempt: Attempt, kind: str) -> bool:
        """Whether it may say this: one that leaves may, and when it is succeeded its last lines."""
        if attempt is not self.leaving:
            return attempt is self.attempt
        return kind == "websocket.send" or not (self.attempt and self.attempt.accepted)

    def _take_over(self) -> None:
        """The one that leaves says what has reached it, and ends; then the successor is heard."""
        if self.leaving is not None:
            self.leaving.ended = True
            self.leaving.say(RELEASE, True)
            self.soon_settle(self.leaving)

    def settle(self, attempt: Attempt | None) -> None:
        """The one that leaves has ended, or had its time."""
        if attempt is self.leaving and attempt is not None:
            self.leaving, self._of_others = None, self._under_way
        while self.leaving is None and self._early and not self.over and self.attempt is not None:
            self.event(self.attempt, *self._early.popleft())

    def _no_longer_early(self, attempt: Attempt) -> None:
        """What a successor has said is heard now, for it will say nothing more."""
        if attempt.accepted:
            self.settle(self.leaving)

    def _said_before(self, once: Any) -> bool:
        stream, number = once
        last = self._once.pop(stream, None)
        if last is not None and number <= last:
            self._once[stream] = last
            return True
        if len(self._once) >= STREAMS:
            del self._once[next(iter(self._once))]
        self._once[stream] = number
        return False

    def _deliver(self, event: Event, weight: int) -> None:
        self._begun = True
        self._under_way += 1
        if "headers" in event:
            event = {**event, "headers": pairs(event["headers"])}
        self.output.put(event, weight)

    def _dealt_with(self, weight: int) -> None:
        """The peer has taken an event, or never will."""
        self._under_way -= 1
        if self._of_others:
            self._of_others -= 1
        elif (speaker := self.leaving or self.attempt) is not None:
            speaker.dealt_with(weight)

    def taken(self, attempt: Attempt, events: int, size: int) -> None:
        """The application has dealt with so many more events of the peer."""
        if attempt is not self.attempt:
            return
        for _ in range(min(events, len(self._events))):
            _, weight = self._events.popleft()
            self._outflow.taken(1, weight)
            self._first += 1
            self._deaths = 0
        self.ring_room()

    def keep_note(self, attempt: Attempt, note: bytes | None) -> None:
        """The WebSocket can be resumed with this, or no longer."""
        if self._speaks(attempt, NOTE):
            self._note = note

    def died(self, attempt: Attempt) -> bool:
        """Its worker has died; whether another one shall take over."""
        attempt.ended = True
        if self.leaving is attempt:
            self.settle(attempt)
        if self.attempt is not attempt or self.over:
            return False
        self._no_longer_early(attempt)
        self._deaths += attempt.inbox is not None and bool(self._events)
        if self.resumable and self._deaths < LIVES:
            return True
        log.warning("a worker died with a %s connection of ours", self.type)
        self.refuse(502, 1012, "The worker died")
        return False

    def leave(self, attempt: Attempt) -> bool:
        """The worker stops; whether another one shall take over."""
        if attempt is not self.attempt or not self.resumable:
            return False
        self._no_longer_early(attempt)
        if attempt.accepted:
            self.leaving = attempt
        return True

    def end(self, attempt: Attempt, how: str) -> None:
        """The application has ended."""
        attempt.ended = True
        if attempt is self.leaving:
            self.settle(attempt)
        if attempt is not self.attempt:
            return
        self._no_longer_early(attempt)
        if how == FAILED:
            self.refuse(500, 1011, "Internal Server Error")
        elif how == STOPPED:
            self.refuse(503, 1012, "The worker is restarting")
        else:
            self._finish()

    # -- the end

    def _finish(self) -> None:
        self.over = True
        self.output.ring()
        self.ring_room()

    def fail(self, error: Exception) -> None:
        """What the worker said makes no sense to the peer: the server deals with that."""
        self.error = error
        self._finish()

    def refuse(self, status: int, code: int, reason: str) -> None:
        """Answer in the application's place: `status` for HTTP, close `code` for a WebSocket.

        One that has not been accepted is refused with `status`, where the server can do that.
        """
        if self.over:
            return
        if self.type == "websocket" and not self._begun and DENIAL in self._scope["extensions"]:
            for event in plain_response(status, reason):
                self.output.add({**event, "type": f"websocket.{event['type']}"})
        elif self.type == "websocket":
            self.output.add({"type": "websocket.close", "code": code, "reason": reason})
        elif self._begun:
            self.error = WorkerLost(reason)  # too late for a status: the server cuts it off
        else:
            self.output.add(*plain_response(status, reason))
        self._finish()

    def abandon(self) -> None:
        """The server has ended this connection: so do the workers."""
        self.over = True
        for attempt in (self.attempt, self.leaving):
            if attempt is not None and not attempt.ended:
                if not self.gone:
                    attempt.say(EVENT, DISCONNECTS[self.type])
                attempt.say(RELEASE, False)
