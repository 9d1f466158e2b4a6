"""The relay's end of one connection: what it keeps of it, and decides. No I/O.

Events of the peer (the browser) go in by `receive_from_peer`; events for the peer come out of
`output`; entries from workers arrive by the methods named after them. Waiters are notified: for
`output` by `notify`, and by `on_room` when the peer's next event may be read.

*One worker after the other.* A connection has one assignment (`split/relay/assignment.py`), usually
for good. A WebSocket that can be resumed is assigned to another worker when its worker stops or
dies. The relay keeps the peer's events until the application has consumed them, and offers those
that are left to the next worker.

*Takeover.* A worker that stops gracefully ("leave") serves the peer until its successor has
accepted. From then on there are two workers with output for one peer, and their batches come on
different links, in any order. To the peer it must look like one application. So the successor's
output is kept back (`_early`) until the departing worker has ended: its last messages were sent
before, and come first. A worker that is cut off from Redis may need a while for that, hence the
limit `TAKEOVER_SECONDS`. The states are in `split/states.py`.

*"once".* Delivery to an application is at least once: when a worker dies, its successor receives
the peer's last event again, although the first worker may have answered it. Then that answer is
sent twice, by two workers that know nothing of each other. They can name it: "once" is a stream and
a number that is the same in both processes (such as the "id" of the line answered). The relay is
the one place that both copies pass, so it remembers the last number of each stream, per peer, and
drops what it has passed on already.

    The ASGI extension "websocket.resume"

    scope["extensions"]["websocket.resume"] = {"note_bytes": int, "note": bytes or None}

    The server can keep a WebSocket open when the process of the application ends, and continue it
    in another process. An application that supports this sends, at any time after it has accepted,

        {"type": "websocket.resume.note", "note": bytes}

    and again whenever the note changes; None withdraws it. A note is at most "note_bytes" long. It
    holds what the next process must know and the scope does not tell: for a chat, the rooms. From
    then on:

    *   When the process stops, the application receives {"type": "websocket.handover"} instead of a
        disconnect, as its last event. Another process has taken over already. Send what belongs to
        the events received so far, do not announce that the user has left, and return.
    *   When the process has died, the application receives nothing.
    *   In both cases the application is called again in another process, with the original scope
        and the last note in the extension ("note" is None the first time). It receives
        "websocket.connect" as usual. When it accepts, nothing is sent to the peer, which notices
        nothing; and if the previous process is stopping, that is when it receives its handover. So
        accept when everything is ready. The previous process's last messages are sent before those
        of this one.
        If it closes instead, the peer's WebSocket is closed with its code, or 1012 if it has none.

    Events from the peer ("websocket.receive" and the disconnect) are delivered in order. An event
    counts as consumed when the application receives the next one. If the process dies before that,
    the event is delivered again, to the next process. Once there is a note, events carry
    "id": [stream, number], which is the same in both deliveries. So each event is delivered at
    least once, and exactly once when the process stops and has the time to finish. An event during
    which `MAX_DEATHS` processes have died is not delivered again: the peer is closed with 1012.

    Messages from the application that have left the process before it died are sent to the peer.
    The last ones may be sent twice, by that process and by its successor. Where that matters,
    "websocket.send" carries "once": [stream, number], for example the "id" of the event it answers.
    Among messages of one stream, none is sent whose number is not above the last one sent. The
    server remembers the last `STREAMS` streams of each WebSocket.

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
from thyme.protocol.close_codes import CloseCode
from thyme.split.flow_control import Queue, ReceiveWindow, SendWindow, Window, min_window
from thyme.split.link import Link
from thyme.split.relay.assignment import Assignment
from thyme.split.relay.output import Output
from thyme.split.states import (
    PEER,
    RELAYED,
    AssignmentState,
    AssignmentTrigger,
    PeerState,
    PeerTrigger,
    RelayedState,
    RelayedTrigger,
    next_state,
)
from thyme.split.wire import (
    CHUNK_BYTES,
    DISCONNECTS,
    EVENT_BYTES,
    FAILED,
    NOTE,
    NOTE_BYTES,
    OLDEST,
    RELEASE,
    RESUME,
    SPLITTABLE,
    STOPPED,
    VERSION,
    encode_scope,
    event_size,
    header_pairs,
    plain_response,
    split_event,
)

log = logging.getLogger("thyme.relay")

STREAMS = 256
"""Streams of "once" that are remembered per WebSocket: recent senders, not all in a room."""

MAX_DEATHS = 2
"""Workers that may die during the same event: the event itself may be what kills them."""

OPENING_BYTES = 2 * CHUNK_BYTES
"""Bytes of the peer's events in an opening. The rest follows when a worker has accepted it."""

DENIAL = "websocket.http.response"
"""ASGI's extension for refusing a WebSocket with an HTTP response."""

# Looked up once: each access to a member of an enum costs as much as a small function call, and
# these three are needed for every event (bench: room-100, "thyme split").
_CLOSED, _TAKEOVER, _UNANSWERED = (
    RelayedState.CLOSED,
    RelayedState.TAKEOVER,
    RelayedState.UNANSWERED,
)


class RelayedConnection:
    """The relay's end of one connection.

    `stream` names the peer's stream of events. `on_takeover(connection, departing)` is called when
    a departing worker has been released: `finish_takeover` must follow after a while. `notify` and
    `send_nowait` are those of `Output`.
    """

    def __init__(
        self,
        scope: Scope,
        stream: str,
        window: Window,
        queue: Queue,
        *,
        notify: Callable[[], None],
        on_room: Callable[[], None],
        on_takeover: Callable[[RelayedConnection, Assignment], None],
        send_nowait: Callable[[Event], bool] | None = None,
    ) -> None:
        self.queue = queue
        self.type: str = scope["type"]
        self.state = RelayedState.UNANSWERED
        self.peer = PeerState.CONNECTED
        self.assignment: Assignment | None = None  # the present one
        self.departing: Assignment | None = None  # the one before, in LEAVING and TAKEOVER
        self.error: Exception | None = None  # for the server, once the state is CLOSED
        self.output = Output(
            notify=notify, on_written=self._written, on_error=self.fail, send_nowait=send_nowait
        )
        self._notify = notify
        self._on_room = on_room
        self._on_takeover = on_takeover
        self._scope = encode_scope(scope)
        self._stream = stream
        self._window = window
        self._events: deque[tuple[Event, int]] = deque()  # of the peer, not consumed yet
        self._first = 1  # number of the first of them
        self._send_window = SendWindow(window)  # counts what is in _events
        self._unwritten = 0  # events that the peer has not read yet
        self._unwritten_before = 0  # the first of these, which no present worker gets credit for
        self._early: deque[tuple[Event, int, Any]] = deque()  # output of the successor, kept back
        self._note: bytes | None = None
        self._once: dict[str, int] = {}  # the last number of each stream, the latest stream last
        self._deaths = 0  # of workers, since the last event was consumed

    def _fire(self, trigger: RelayedTrigger) -> None:
        self.state = next_state(RELAYED, self.state, trigger)

    @property
    def closed(self) -> bool:
        """Return whether nothing more will be put into `output`."""
        return self.state is RelayedState.CLOSED

    @property
    def peer_gone(self) -> bool:
        """Return whether the peer's disconnect has been received."""
        return self.peer is PeerState.GONE

    # -- from the peer

    @property
    def has_room(self) -> bool:
        """Return whether the peer's next event may be read."""
        return self._send_window.open

    def receive_from_peer(self, event: Event) -> None:
        """Queue an event from the peer for the worker."""
        size = event_size(event)
        if event["type"] == "websocket.receive" and size > EVENT_BYTES:
            self._refuse_message(size)
        elif size <= CHUNK_BYTES or event["type"] not in SPLITTABLE:
            self._forward(event, size)
        else:
            for part in split_event(event):
                self._forward(part, event_size(part))

    def _forward(self, event: Event, size: int) -> None:
        if event["type"] == DISCONNECTS[self.type]["type"]:
            self.peer = next_state(PEER, self.peer, PeerTrigger.DISCONNECT)
        self._events.append((event, size))
        self._send_window.sent(size)
        if self.assignment is not None and self.assignment.link is not None:
            self.assignment.send_event(event, size)

    def _refuse_message(self, size: int) -> None:
        """Close a WebSocket whose peer has sent a message that no worker can be given.

        To the application it looks as if the peer had left.
        """
        code = CloseCode.MESSAGE_TOO_BIG
        disconnect: Event = {"type": "websocket.disconnect", "code": code.value}
        self._forward(disconnect, event_size(disconnect))
        self.refuse(413, code, f"got a message of {size} bytes, at most {EVENT_BYTES} are allowed")

    # -- assignments

    def assign(self, number: int) -> Assignment:
        """Begin another assignment, from the first event that has not been consumed."""
        resumes = self.state is not RelayedState.UNANSWERED and self.type == "websocket"
        self.assignment = Assignment(number, self._first, resumes, ReceiveWindow(self._window))
        if self.departing is None:
            self._unwritten_before = self._unwritten
        return self.assignment

    def opening(self, assignment: Assignment, sender: str, lifeline: str | None) -> dict[str, Any]:
        """Return the opening that offers the connection to a worker, see `split/wire.py`."""
        events = self._first_events()
        assignment.next_event = self._first + len(events)
        if self.type == "websocket":
            resume = {"note_bytes": NOTE_BYTES, "note": self._note}
            self._scope["extensions"][RESUME] = resume
        return {
            "version": VERSION,
            "oldest": OLDEST,
            "from": sender,
            "connection": assignment.number,
            "scope": self._scope,
            "events": events,
            "number": self._first,
            "stream": self._stream,
            "resumes": assignment.resumes,
            "wait": self.queue.seconds,
            "window": [self._window.events, self._window.bytes],
            "lifeline": lifeline,
        }

    def _first_events(self) -> list[Event]:
        """Return the events for an opening, which may have to wait in Redis with many others."""
        total, events = 0, []
        for event, size in self._events:
            total += size
            if total > OPENING_BYTES:
                break
            events.append(event)
        return events

    @property
    def resumable(self) -> bool:
        """Return whether another worker can continue."""
        if self.closed or self.type != "websocket":
            return False
        if self._note is not None:
            return True
        return self.state is RelayedState.UNANSWERED and not self.peer_gone

    def handle_hello(self, assignment: Assignment, link: Link, window: Window) -> None:
        """A worker has accepted the opening: send it the events that were not part of that."""
        assignment.fire(AssignmentTrigger.HELLO)
        assignment.link = link
        assignment.inbox = link.remote_inbox
        self._send_window.window = min_window(self._window, window)
        missing = self._first + len(self._events) - assignment.next_event
        for event, size in list(self._events)[len(self._events) - missing :]:
            assignment.send_event(event, size)

    # -- from the worker

    def handle_event(self, assignment: Assignment, event: Event, size: int, once: Any) -> None:
        """Pass an event from the application on to the peer."""
        kind = event["type"]
        present = assignment is self.assignment
        if self.state is _CLOSED or not (present or self._may_send(assignment, kind)):
            return
        if self.state is _TAKEOVER and present:
            self._early.append((event, size, once))
            return
        if kind == "websocket.accept":
            assignment.fire(AssignmentTrigger.ACCEPT)
            if assignment.resumes:
                if self.state is RelayedState.LEAVING:
                    self._fire(RelayedTrigger.SUCCEED)
                    self._release_departing()
                assignment.consumed(size)  # the peer was accepted long ago
                return
        elif kind == "websocket.close":
            self._note = None  # the application wants to end: there is nothing to resume
            if assignment.resumes and assignment.state is AssignmentState.RUNNING:
                event = {**event, "code": event.get("code") or CloseCode.SERVICE_RESTART.value}
                self._release_departing()
        if once is not None and self._is_repeated(once):
            assignment.consumed(size)
        else:
            self._deliver(event, size)

    def _may_send(self, assignment: Assignment, kind: str) -> bool:
        """Return whether a worker may send this. Workers that are out of charge are ignored.

        The departing one may send anything before the takeover, and then its last messages.
        """
        if assignment is self.departing:
            return kind == "websocket.send" or self.state is not RelayedState.TAKEOVER
        return assignment is self.assignment

    def _release_departing(self) -> None:
        """Let the departing worker send its last messages and end."""
        departing = self.departing
        if departing is not None and departing.in_charge:
            departing.fire(AssignmentTrigger.RELEASE)
            departing.send(RELEASE, True)
            self._on_takeover(self, departing)

    def finish_takeover(self, departing: Assignment | None) -> None:
        """The departing worker has ended, or has had its time: deliver its successor's output."""
        if departing is not None and departing is self.departing:
            self._fire(RelayedTrigger.DEPART)
            self.departing, self._unwritten_before = None, self._unwritten
        while self._early and self.departing is None and not self.closed and self.assignment:
            self.handle_event(self.assignment, *self._early.popleft())

    def _deliver_early_output(self, assignment: Assignment) -> None:
        """End the takeover now, because the successor itself is about to end or to leave."""
        if assignment.state is AssignmentState.ACCEPTED:
            self.finish_takeover(self.departing)

    def _is_repeated(self, once: Any) -> bool:
        """Return whether a message with this "once" was sent before; remember it."""
        stream, number = once
        last = self._once.pop(stream, None)
        if last is not None and number <= last:
            self._once[stream] = last
            return True
        if len(self._once) >= STREAMS:
            del self._once[next(iter(self._once))]
        self._once[stream] = number
        return False

    def _deliver(self, event: Event, size: int) -> None:
        if self.state is _UNANSWERED:
            self._fire(RelayedTrigger.ANSWER)
        self._unwritten += 1
        if "headers" in event:
            event = {**event, "headers": header_pairs(event["headers"])}
        self.output.put(event, size)

    def _written(self, size: int) -> None:
        """The peer has read an event, or never will: its worker may send more.

        Events are written in order, so those of earlier workers come first. Nobody waits for their
        acknowledgement, and the present worker's window must not be credited with them.
        """
        self._unwritten -= 1
        if self._unwritten_before:
            self._unwritten_before -= 1
        elif (sender := self.departing or self.assignment) is not None:
            sender.consumed(size)

    def handle_window_update(self, assignment: Assignment, events: int, size: int) -> None:
        """The application has consumed so many more events of the peer: forget them."""
        if assignment is not self.assignment:
            return
        for _ in range(min(events, len(self._events))):
            _, consumed = self._events.popleft()
            self._send_window.acknowledged(1, consumed)
            self._first += 1
            self._deaths = 0
        self._on_room()

    def handle_note(self, assignment: Assignment, note: bytes | None) -> None:
        """Keep the note with which the WebSocket can be resumed; None: it cannot be any longer."""
        if self._may_send(assignment, NOTE):
            self._note = note

    def handle_leave(self, assignment: Assignment) -> bool:
        """The worker is stopping; return whether to assign another one."""
        if assignment is not self.assignment or not self.resumable:
            return False
        self._deliver_early_output(assignment)
        if not self.resumable:  # that output has closed it
            return False
        accepted = assignment.state is AssignmentState.ACCEPTED
        assignment.fire(AssignmentTrigger.LEAVE)
        if accepted:
            self._fire(RelayedTrigger.LEAVE)
            self.departing = assignment
        return True

    def handle_requeue(self, assignment: Assignment) -> bool:
        """The worker has not started the application; return whether to assign another one."""
        assignment.fire(AssignmentTrigger.END)
        return assignment is self.assignment and not self.closed

    def handle_end(self, assignment: Assignment, outcome: str) -> None:
        """The application has ended."""
        if not self._end(assignment):
            return
        if outcome == FAILED:
            self.refuse(500, CloseCode.INTERNAL_ERROR, "Internal Server Error")
        elif outcome == STOPPED:
            self.refuse(503, CloseCode.SERVICE_RESTART, "The worker is restarting")
        else:
            self._close()

    def handle_worker_death(self, assignment: Assignment) -> bool:
        """The worker has died; return whether to assign another one."""
        if not self._end(assignment):
            return False
        self._deaths += assignment.inbox is not None and bool(self._events)
        if self.resumable and self._deaths < MAX_DEATHS:
            return True
        log.warning("a worker died while it served a %s connection", self.type)
        self.refuse(502, CloseCode.SERVICE_RESTART, "The worker died")
        return False

    def withdraw(self, assignment: Assignment, status: int, code: CloseCode, reason: str) -> None:
        """No worker has accepted the opening in time, or can."""
        if self._end(assignment):
            if assignment.resumes:
                code = CloseCode.SERVICE_RESTART
            self.refuse(status, code, reason)

    def _end(self, assignment: Assignment) -> bool:
        """End an assignment; return whether it was the present one of an open connection."""
        present = assignment is self.assignment and not self.closed
        if present:
            self._deliver_early_output(assignment)
        assignment.fire(AssignmentTrigger.END)
        self.finish_takeover(assignment)
        return present

    # -- the end

    def _close(self) -> None:
        self._fire(RelayedTrigger.CLOSE)
        self._notify()
        self._on_room()

    def fail(self, error: Exception) -> None:
        """Close with an error for the server: an event of the application is invalid."""
        self.error = error
        self._close()

    def refuse(self, status: int, code: CloseCode, reason: str) -> None:
        """Answer in the application's place: with `status`, or with close `code` for a WebSocket.

        A WebSocket that has not been accepted is refused with `status` if the server supports that.
        """
        if self.closed:
            return
        answered = self.state is not RelayedState.UNANSWERED
        if self.type == "websocket" and not answered and DENIAL in self._scope["extensions"]:
            for event in plain_response(status, reason):
                self.output.append({**event, "type": f"websocket.{event['type']}"})
        elif self.type == "websocket":
            close = {"type": "websocket.close", "code": code.value, "reason": reason}
            self.output.append(close)
        elif answered:
            self.error = WorkerLost(reason)  # too late for a status: the server aborts the response
        else:
            self.output.append(*plain_response(status, reason))
        self._close()

    def release(self) -> None:
        """The server has finished with this connection: release its workers."""
        self._fire(RelayedTrigger.CLOSE)
        for assignment in (self.assignment, self.departing):
            if assignment is not None and assignment.in_charge:
                if not self.peer_gone:
                    event = DISCONNECTS[self.type]
                    assignment.send_event(event, event_size(event))
                assignment.fire(AssignmentTrigger.RELEASE)
                assignment.send(RELEASE, False)
