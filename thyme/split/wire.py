"""The messages between relay and worker, and the protocol version. No I/O.

There are two kinds of messages, both MessagePack:

*   An *opening* is a map, sent by anycast to a queue. It offers one connection to a worker.

        version, oldest   the newest and the oldest version that the relay supports
        from              address of the relay's endpoint
        connection        number of the connection on the link between the two endpoints
        scope             ASGI's, see `encode_scope`
        events            the first events of the peer (the browser)
        number, stream    number of the first of these events; name of this peer's stream of events
        resumes           whether the peer is connected already: the worker succeeds another one
        wait              seconds that the opening may wait in the queue
        window            [events, bytes] that the relay accepts before it acknowledges any
        lifeline          "host:port" where the relay accepts lifelines, or None

*   A *batch* is a list, sent by unicast between two endpoints, see `split/link.py`. It carries
    everything else, as entries of the form [[connection, …], kind, argument …].

Kinds of entries (► to the worker, ◄ to the relay), and their arguments:

    "hello"    ◄   version, window, inbox: a worker has accepted the connection
    "event"    ◄►  the event; ◄ also its "once", see `split/relay/connection.py`
    "taken"    ◄►  events, bytes: so many more were consumed by the application, or by the peer
                   (flow control: WINDOW_UPDATE)
    "note"     ◄   bytes: the WebSocket can be resumed with this note
    "leave"    ◄   the worker is stopping: assign another worker
    "back"     ◄   the application was not started: offer the connection again (REQUEUE)
    "end"      ◄   "returned", "failed" (the application raised) or "stopped" (the worker did)
    "release"  ►   whether another worker has taken over; if not, the peer is gone

Versions: the opening names the versions that the relay supports, "hello" the one that the worker
has chosen. Unknown keys and kinds are ignored, so a release may add some without a new version. A
worker that supports none of the relay's versions answers in a form that every version understands:
{"from", "events": [], "end": "failed"}.

Taught in notebooks/09_relay_and_workers.ipynb.
Read next: `split/flow_control.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from thyme.asgi import Event, Scope
from thyme.protocol.close_codes import CloseCode

VERSION = 2
"""The newest version that this release supports."""

OLDEST = 2
"""The oldest version that this release supports. Version 1 had no windows and no lifelines."""

HELLO, EVENT, WINDOW_UPDATE, NOTE, LEAVE = "hello", "event", "taken", "note", "leave"
REQUEUE, END, RELEASE = "back", "end", "release"
"""Kinds of entries."""

RETURNED, FAILED, STOPPED = "returned", "failed", "stopped"
"""Outcomes of an application."""

RESUME = "websocket.resume"
"""The name of our ASGI extension, specified in `split/relay/connection.py`."""

RESUME_NOTE = "websocket.resume.note"
"""Its event from the application to the server."""

HANDOVER = "websocket.handover"
"""Its event from the server to the application."""

NOTE_BYTES = 4096
"""Bytes of a note: the names of rooms, not their contents. The server keeps one per WebSocket."""

CHUNK_BYTES = 64 * 1024
"""Bytes of a body in one event. A larger body is split, where ASGI allows that."""

EVENT_BYTES = 14 * 1024 * 1024
"""Bytes of an event that cannot be split (a WebSocket message): the most that gredis carries in one
message, less the rest of the opening that the event may be part of."""

EVENT_OVERHEAD = 64
"""Bytes that an event counts for in addition to its content; about what its dict occupies."""

LOCAL_KEYS = frozenset({"state", "extensions", "app"})
"""Keys of a scope that mean something only in the server's process."""

PORTABLE_EXTENSIONS = frozenset(
    {"websocket.http.response", "http.response.trailers", "http.response.early_hint", "tls"}
)
"""Extensions that work across processes: their events hold bytes and text, no files or sockets."""

PORTABLE_TYPES = (str, bytes, int, float, bool, type(None), list, tuple, dict)

SPLITTABLE = frozenset({"http.request", "http.response.body"})
"""Types of events whose body ASGI allows to come in parts ("more_body")."""

DISCONNECTS: dict[str, Event] = {
    "http": {"type": "http.disconnect"},
    "websocket": {"type": "websocket.disconnect", "code": CloseCode.ABNORMAL.value},
}
"""The event for an application whose server is gone, by type of scope."""


def encode_scope(scope: Scope) -> Scope:
    """Return the part of `scope` that can cross to another process."""
    crossing = {
        key: value
        for key, value in scope.items()
        if key not in LOCAL_KEYS and isinstance(value, PORTABLE_TYPES)
    }
    crossing["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    extensions = scope.get("extensions") or {}
    crossing["extensions"] = {
        name: extensions[name] for name in PORTABLE_EXTENSIONS & extensions.keys()
    }
    return crossing


def decode_scope(scope: Scope) -> Scope:
    """Restore the tuples of a scope, which MessagePack has turned into lists; return the scope."""
    scope["headers"] = header_pairs(scope["headers"])
    for key in ("client", "server"):
        if scope.get(key) is not None:
            scope[key] = tuple(scope[key])
    return scope


def header_pairs(headers: list[list[bytes]]) -> list[tuple[bytes, bytes]]:
    """Return `headers` as ASGI has them: pairs of name and value."""
    return [(name, value) for name, value in headers]


def event_size(event: Event) -> int:
    """Return the bytes that an event counts for in a window.

    This is computed once per event and process, and then passed along with the event: text that is
    not ASCII has to be encoded for it.

    Raises `ValueError` for text that UTF-8 cannot represent (lone surrogates), `TypeError` for
    content that is neither text nor bytes.
    """
    content = event.get("text") or event.get("bytes") or event.get("body") or b""
    if isinstance(content, str):
        if not content.isascii():
            content = content.encode()
    elif not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(f"got {content!r} in {event['type']}, expected text or bytes")
    return len(content) + EVENT_OVERHEAD


def split_event(event: Event) -> Iterator[Event]:
    """Yield the event, or several equivalent ones if its body is large and may be split."""
    body = event.get("body", b"")
    if len(body) <= CHUNK_BYTES or event["type"] not in SPLITTABLE:
        yield event
        return
    more, view = event.get("more_body", False), memoryview(body)
    for start in range(0, len(body), CHUNK_BYTES):
        chunk = bytes(view[start : start + CHUNK_BYTES])
        yield {**event, "body": chunk, "more_body": more or start + CHUNK_BYTES < len(body)}


def plain_response(status: int, text: str) -> list[Event]:
    """Return the events of a short plain-text response."""
    body = f"{status} {text}\n".encode()
    headers: list[Any] = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]


def negotiate_version(oldest: int, newest: int) -> int | None:
    """Return the version to use with a peer that supports `oldest` to `newest`, or None."""
    version = min(newest, VERSION)
    return version if version >= max(oldest, OLDEST) else None
