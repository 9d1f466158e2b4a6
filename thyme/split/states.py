"""The states of a relayed connection at both of its ends, as transition tables. No I/O.

A connection has two ends that live in different processes and learn of each other by messages, so
their states are never quite the same. Each end has two state machines, because two things happen
independently of each other:

    in the relay    the connection towards the peer          `RELAYED`, one per connection
                    the worker assigned to it                `ASSIGNMENT`, one per worker
    in the worker   the application                          `APPLICATION`
                    who is responsible for the connection    `OWNERSHIP`

and the relay counts the peer's own end with a third, `PEER`, which has one transition.

A table maps a state and a trigger to the next state. A transition that is not in its table is an
error (`ImpossibleTransition`), either a bug of ours or a message that the other side must not send
at this point. A trigger that leaves the state as it is stands in the table as well: it is possible,
and has no effect.

`python -m thyme.split.states` prints the tables as the diagrams of docs/architecture.md.

Read next: `split/link.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, TypeVar

# -- the relay's end


class RelayedState(Enum):
    """States of a connection in the relay, as far as the peer can tell them apart."""

    UNANSWERED = auto()
    """The peer has received nothing. Any worker may start from the beginning."""

    ANSWERED = auto()
    """The response has begun, or the WebSocket is accepted. Only a WebSocket with a note can be
    given to another worker now."""

    LEAVING = auto()
    """The worker is stopping, and a successor is being looked for. Until that has accepted, the
    departing worker serves the peer as before."""

    TAKEOVER = auto()
    """The successor has accepted. Its output is kept back until the departing worker's last output
    has arrived: that was sent earlier, but travels in another process's batches."""

    CLOSED = auto()
    """Nothing more is sent to the peer than what is in the output already."""


class RelayedTrigger(Enum):
    """The triggers that change the state of a connection in the relay."""

    ANSWER = auto()  # the first event for the peer
    LEAVE = auto()  # its worker is stopping, and the WebSocket can be resumed
    SUCCEED = auto()  # the successor of a departing worker has accepted
    DEPART = auto()  # the departing worker has ended, or has had its time
    CLOSE = auto()  # the application has ended, or the relay has answered in its place


class AssignmentState(Enum):
    """States of one worker's assignment to a connection, in the relay."""

    OFFERED = auto()
    """The opening waits in a queue, or in the inbox of a worker that has not answered."""

    RUNNING = auto()
    """The worker has said hello. Its application has not accepted (HTTP: there is no accepting)."""

    ACCEPTED = auto()
    """The application has accepted the WebSocket. If it succeeds another one, it has taken over."""

    LEAVING = auto()
    """The worker is stopping. It may send anything until its successor accepts."""

    RELEASED = auto()
    """The worker knows that it is out of charge. It may still send its last WebSocket messages."""

    ENDED = auto()
    """The application has ended, the worker is dead, or the offer was withdrawn."""


class AssignmentTrigger(Enum):
    """The triggers that change the state of an assignment."""

    HELLO = auto()
    ACCEPT = auto()
    LEAVE = auto()
    RELEASE = auto()
    END = auto()


class PeerState(Enum):
    """States of the peer, in the relay."""

    CONNECTED = auto()
    GONE = auto()


class PeerTrigger(Enum):
    """The triggers that change the state of the peer."""

    DISCONNECT = auto()


# -- the worker's end


class ApplicationState(Enum):
    """States of the application that serves a connection, in the worker."""

    ASSIGNED = auto()
    """Its greenlet or task has not run yet, so the connection can be given back."""

    RUNNING = auto()
    ACCEPTED = auto()  # the WebSocket
    ENDED = auto()


class ApplicationTrigger(Enum):
    """The triggers that change the state of the application."""

    START = auto()
    ACCEPT = auto()
    END = auto()


class OwnershipState(Enum):
    """States of a connection in the worker: is this worker responsible for it?"""

    SERVING = auto()

    STOPPING = auto()
    """The worker is stopping. What that means for this WebSocket is decided when the application
    asks for the next event: it may be about to accept, and to send a note."""

    CLOSING = auto()
    """The WebSocket cannot be resumed. The application receives the events that are here already,
    and then a disconnect with code 1012."""

    LEAVING = auto()
    """The relay looks for a successor. The application may send, and receives nothing: what the
    peer sends is for the successor."""

    SUCCEEDED = auto()
    """Another worker has taken over. The application is due to receive the handover event."""

    HANDED_OVER = auto()
    """The application has received it. It may send its last messages, and should return."""

    DISCONNECTED = auto()
    """The peer or the relay is gone. The application receives the events that are here already,
    and then disconnects; what it sends is discarded."""


class OwnershipTrigger(Enum):
    """The triggers that change the ownership of a connection."""

    STOP = auto()  # the worker is told to stop
    CLOSE = auto()  # at the next receive: there is no note
    LEAVE = auto()  # at the next receive: there is one; or the time to stop is over
    SUCCEED = auto()  # the relay has released this worker: another one has accepted
    DELIVER = auto()  # the application receives the handover event
    DISCONNECT = auto()  # the relay has released this worker: the peer is gone; or it is lost


S = TypeVar("S", bound=Enum)
T = TypeVar("T", bound=Enum)
Table = Mapping[S, Mapping[T, S]]

RELAYED: Table[RelayedState, RelayedTrigger] = {
    RelayedState.UNANSWERED: {
        RelayedTrigger.ANSWER: RelayedState.ANSWERED,
        RelayedTrigger.CLOSE: RelayedState.CLOSED,
    },
    RelayedState.ANSWERED: {
        RelayedTrigger.LEAVE: RelayedState.LEAVING,
        RelayedTrigger.CLOSE: RelayedState.CLOSED,
    },
    RelayedState.LEAVING: {
        RelayedTrigger.SUCCEED: RelayedState.TAKEOVER,
        RelayedTrigger.DEPART: RelayedState.ANSWERED,
        RelayedTrigger.CLOSE: RelayedState.CLOSED,
    },
    # A successor that has to leave itself ends the takeover first (DEPART), and then leaves.
    RelayedState.TAKEOVER: {
        RelayedTrigger.DEPART: RelayedState.ANSWERED,
        RelayedTrigger.CLOSE: RelayedState.CLOSED,
    },
    # The workers of a closed connection end later.
    RelayedState.CLOSED: {
        RelayedTrigger.DEPART: RelayedState.CLOSED,
        RelayedTrigger.CLOSE: RelayedState.CLOSED,
    },
}

ASSIGNMENT: Table[AssignmentState, AssignmentTrigger] = {
    AssignmentState.OFFERED: {
        AssignmentTrigger.HELLO: AssignmentState.RUNNING,
        AssignmentTrigger.RELEASE: AssignmentState.RELEASED,
        AssignmentTrigger.END: AssignmentState.ENDED,
    },
    AssignmentState.RUNNING: {
        AssignmentTrigger.ACCEPT: AssignmentState.ACCEPTED,
        # It has not accepted, so there is nothing to take over: the next one starts anew.
        AssignmentTrigger.LEAVE: AssignmentState.RELEASED,
        AssignmentTrigger.RELEASE: AssignmentState.RELEASED,
        AssignmentTrigger.END: AssignmentState.ENDED,
    },
    AssignmentState.ACCEPTED: {
        # Accepting twice is the application's mistake, and the server's business to refuse.
        AssignmentTrigger.ACCEPT: AssignmentState.ACCEPTED,
        AssignmentTrigger.LEAVE: AssignmentState.LEAVING,
        AssignmentTrigger.RELEASE: AssignmentState.RELEASED,
        AssignmentTrigger.END: AssignmentState.ENDED,
    },
    AssignmentState.LEAVING: {
        AssignmentTrigger.RELEASE: AssignmentState.RELEASED,
        AssignmentTrigger.END: AssignmentState.ENDED,
    },
    AssignmentState.RELEASED: {
        AssignmentTrigger.END: AssignmentState.ENDED,
    },
    # An error of posting the opening can arrive when the worker has long ended.
    AssignmentState.ENDED: {
        AssignmentTrigger.END: AssignmentState.ENDED,
    },
}

PEER: Table[PeerState, PeerTrigger] = {
    PeerState.CONNECTED: {PeerTrigger.DISCONNECT: PeerState.GONE},
    PeerState.GONE: {},
}

APPLICATION: Table[ApplicationState, ApplicationTrigger] = {
    ApplicationState.ASSIGNED: {
        ApplicationTrigger.START: ApplicationState.RUNNING,
        ApplicationTrigger.END: ApplicationState.ENDED,
    },
    ApplicationState.RUNNING: {
        ApplicationTrigger.ACCEPT: ApplicationState.ACCEPTED,
        ApplicationTrigger.END: ApplicationState.ENDED,
    },
    ApplicationState.ACCEPTED: {
        ApplicationTrigger.ACCEPT: ApplicationState.ACCEPTED,
        ApplicationTrigger.END: ApplicationState.ENDED,
    },
    ApplicationState.ENDED: {},
}

OWNERSHIP: Table[OwnershipState, OwnershipTrigger] = {
    # SUCCEED without LEAVE: the relay had taken this process for dead, by mistake.
    OwnershipState.SERVING: {
        OwnershipTrigger.STOP: OwnershipState.STOPPING,
        OwnershipTrigger.SUCCEED: OwnershipState.SUCCEEDED,
        OwnershipTrigger.DISCONNECT: OwnershipState.DISCONNECTED,
    },
    OwnershipState.STOPPING: {
        OwnershipTrigger.CLOSE: OwnershipState.CLOSING,
        OwnershipTrigger.LEAVE: OwnershipState.LEAVING,
        OwnershipTrigger.SUCCEED: OwnershipState.SUCCEEDED,
        OwnershipTrigger.DISCONNECT: OwnershipState.DISCONNECTED,
    },
    # LEAVE: the time to stop is over, and the application is still about to accept.
    OwnershipState.CLOSING: {
        OwnershipTrigger.LEAVE: OwnershipState.LEAVING,
        OwnershipTrigger.SUCCEED: OwnershipState.SUCCEEDED,
        OwnershipTrigger.DISCONNECT: OwnershipState.DISCONNECTED,
    },
    OwnershipState.LEAVING: {
        OwnershipTrigger.SUCCEED: OwnershipState.SUCCEEDED,
        OwnershipTrigger.DISCONNECT: OwnershipState.DISCONNECTED,
    },
    # The peer belongs to another worker: whether it is gone makes no difference here.
    OwnershipState.SUCCEEDED: {
        OwnershipTrigger.DELIVER: OwnershipState.HANDED_OVER,
        OwnershipTrigger.SUCCEED: OwnershipState.SUCCEEDED,
        OwnershipTrigger.DISCONNECT: OwnershipState.SUCCEEDED,
    },
    OwnershipState.HANDED_OVER: {
        OwnershipTrigger.SUCCEED: OwnershipState.HANDED_OVER,
        OwnershipTrigger.DISCONNECT: OwnershipState.HANDED_OVER,
    },
    OwnershipState.DISCONNECTED: {
        OwnershipTrigger.SUCCEED: OwnershipState.DISCONNECTED,
        OwnershipTrigger.DISCONNECT: OwnershipState.DISCONNECTED,
    },
}


class ImpossibleTransition(RuntimeError):
    """A trigger that the table does not have for this state."""


def next_state(table: Table[S, T], state: S, trigger: T) -> S:
    """Return the state that follows; raise `ImpossibleTransition` if there is none."""
    try:
        return table[state][trigger]
    except KeyError:
        raise ImpossibleTransition(
            f"got {trigger.name} in state {type(state).__name__}.{state.name}, expected "
            + (" or ".join(each.name for each in table[state]) or "nothing more")
        ) from None


# -- the diagrams

DIAGRAMS: dict[str, tuple[tuple[str, Table[Any, Any]], ...]] = {
    "relay": (
        ("The connection, towards the peer (`RelayedState`)", RELAYED),
        ("A worker's assignment to it (`AssignmentState`)", ASSIGNMENT),
        ("The peer (`PeerState`)", PEER),
    ),
    "worker": (
        ("The application (`ApplicationState`)", APPLICATION),
        ("Who is responsible (`OwnershipState`)", OWNERSHIP),
    ),
}
"""The diagrams of each section `<!-- states:… -->` of docs/architecture.md."""


def diagram(table: Table[S, T]) -> str:
    """Return a table as a Mermaid `stateDiagram-v2`.

    The first state of the table is the initial one; those that cannot be left are final. Triggers
    without effect are left out.
    """
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(table)).name}"]
    for state, transitions in table.items():
        leaving = {trigger: to for trigger, to in transitions.items() if to is not state}
        lines += [f"    {state.name} --> {to.name}: {each.name}" for each, to in leaving.items()]
        if not leaving:
            lines.append(f"    {state.name} --> [*]")
    return "\n".join(lines) + "\n"


def section(name: str) -> str:
    """Return one section of docs/architecture.md, with its markers."""
    parts = [f"**{title}**\n\n```mermaid\n{diagram(table)}```\n" for title, table in DIAGRAMS[name]]
    return f"<!-- states:{name} -->\n" + "\n".join(parts) + "<!-- end -->\n"


if __name__ == "__main__":
    print("\n".join(map(section, DIAGRAMS)), end="")
