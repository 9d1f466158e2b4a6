"""What crosses between a relay and a worker, and in which version. No I/O.

Two things travel, both as MessagePack:

    the opening   a map, by anycast to a queue: {"version", "oldest", "from": address of the
                  relay's desk, "connection": number, "scope", "events": the peer's first,
                  "number": of the first of them, "stream": name of what the peer says,
                  "resumes": whether it goes on where another worker has ended, "wait": seconds it
                  may wait, "window": [events, bytes] that the relay takes, "lifeline": place or
                  None}
    batches       all else, by unicast between two desks, see `split/link.py`: entries of the form
                  [[connection, …], kind, what …], where kind says (to the worker ►, to the relay ◄)

    "hello"    ◄   version, window, lifeline's inbox: a worker has taken the connection
    "event"    ◄►  event; ◄ also its "once", see `split/relay/connection.py`
    "taken"    ◄►  how many events, and bytes, of this connection the application, or the peer, has
                   dealt with so far (flow control)
    "note"     ◄   bytes: the WebSocket can be resumed with this
    "leave"    ◄   the worker stops: open this connection somewhere else
    "back"     ◄   it has not been begun: open it somewhere else
    "end"      ◄   how: "returned", "failed" (the application raised), "stopped" (the worker ends)
    "release"   ►  nobody listens to this worker any more; whether somebody else has taken over

Versions: the opening says which the relay speaks ("oldest" to "version"), "hello" which of them the
worker has chosen. Keys and kinds that one does not know are ignored, so a release may add some
without a new version. Who finds no version in common says so, in words that every version knows:
{"from", "events": [], "end": "failed"} to the relay.

Taught in notebooks/09_relay_and_workers.ipynb.
Read next: `split/flow_control.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from thyme.asgi import Event, Scope

VERSION = 2
"""Of what this release says."""

OLDEST = 2
"""Of what this release understands. Version 1 knew no windows and no lifelines."""

HELLO, EVENT, TAKEN, NOTE, LEAVE = "hello", "event", "taken", "note", "leave"
BACK, END, RELEASE = "back", "end", "release"
"""Kinds of entries."""

RETURNED, FAILED, STOPPED = "returned", "failed", "stopped"
"""How an application ended."""

RESUME = "websocket.resume"
"""Our ASGI extension; `split/relay/connection.py` describes it."""

SEND_NOTE = "websocket.resume.note"
HANDOVER = "websocket.handover"
"""Its events: from the application, and to it."""

NOTE_BYTES = 4096
"""Bytes of a note: names of rooms, not their contents; the server keeps one per socket."""

PIECE_BYTES = 64 * 1024
"""Bytes of a body that travel in one event: a larger one is cut, where ASGI allows it."""

EVENT_BYTES = 14 * 1024 * 1024
"""Bytes of an event that cannot be cut (a WebSocket message): what gredis carries in one letter,
less the rest of an opening that it may be in."""

TOO_BIG = 1009
"""RFC 6455 7.4.1, "a message that is too big for it to process"."""

EVENT_WEIGHT = 64
"""Bytes that an event counts for besides its content, about what it occupies."""

STAYS = frozenset({"state", "extensions", "app"})
"""Keys of a scope that mean something only in the server's process."""

CROSSES = frozenset(
    {"websocket.http.response", "http.response.trailers", "http.response.early_hint", "tls"}
)
"""Extensions that can cross: they hold bytes and text, not files or sockets."""

PLAIN = (str, bytes, int, float, bool, type(None), list, tuple, dict)

CUT = frozenset({"http.request", "http.response.body"})
"""Events that ASGI allows to come in pieces ("more_body")."""

DISCONNECTS: dict[str, Event] = {
    "http": {"type": "http.disconnect"},
    "websocket": {"type": "websocket.disconnect", "code": 1006},
}
"""What an application receives when the other half of the split has gone, by type of scope."""


def portable(scope: Scope) -> Scope:
    """The part of a scope that can cross to another process."""
    crossing = {
        key: value for key, value in scope.items() if key not in STAYS and isinstance(value, PLAIN)
    }
    crossing["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    extensions = scope.get("extensions") or {}
    crossing["extensions"] = {name: extensions[name] for name in CROSSES & extensions.keys()}
    return crossing


def restored(scope: Scope) -> Scope:
    """A scope as the server had it: what MessagePack turned into lists is pairs again."""
    scope["headers"] = pairs(scope["headers"])
    for key in ("client", "server"):
        if scope.get(key) is not None:
            scope[key] = tuple(scope[key])
    return scope


def pairs(headers: list[list[bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them."""
    return [(name, value) for name, value in headers]


def weigh(event: Event) -> int:
    """Bytes that an event counts for in a window.

    `ValueError` for a text that UTF-8 cannot say, `TypeError` for what is neither text nor bytes.
    """
    content = event.get("text") or event.get("bytes") or event.get("body") or b""
    if isinstance(content, str):
        if not content.isascii():
            content = content.encode()
    elif not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(f"got {content!r} in {event['type']}, expected text or bytes")
    return len(content) + EVENT_WEIGHT


def pieces(event: Event) -> Iterator[Event]:
    """The event, or, when its body is large, several that say the same."""
    body = event.get("body", b"")
    if len(body) <= PIECE_BYTES or event["type"] not in CUT:
        yield event
        return
    more, view = event.get("more_body", False), memoryview(body)
    for start in range(0, len(body), PIECE_BYTES):
        piece = bytes(view[start : start + PIECE_BYTES])
        yield {**event, "body": piece, "more_body": more or start + PIECE_BYTES < len(body)}


def plain_response(status: int, text: str) -> list[Event]:
    """The events of a small response of plain text."""
    body = f"{status} {text}\n".encode()
    headers: list[Any] = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]


def spoken(oldest: int, newest: int) -> int | None:
    """The version to speak with somebody who knows these; None when we have none in common."""
    version = min(newest, VERSION)
    return version if version >= max(oldest, OLDEST) else None
