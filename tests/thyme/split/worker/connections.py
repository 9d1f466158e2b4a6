"""A worker's end of a connection whose relay is the test."""

from __future__ import annotations

from typing import Any

from tests.thyme.split.links import RecordingLink
from thyme.split.flow_control import Window
from thyme.split.worker.connection import WorkerConnection

CONNECT = {"type": "websocket.connect"}
SCOPE = {"type": "websocket", "path": "/", "headers": [], "client": None, "server": None}


class Connection(WorkerConnection):
    """Nothing waits for it."""

    def notify(self) -> None:
        """No-op."""


def opening(
    *events: dict[str, Any], scope=SCOPE, note=None, relay_window=(4, 1000), **more: Any
) -> dict[str, Any]:
    """Return an opening with these first events of the peer."""
    resume = {"websocket.resume": {"note_bytes": 10, "note": note}}
    return {
        "version": 2,
        "oldest": 2,
        "from": "there!1",
        "connection": 1,
        "scope": scope | {"extensions": resume},
        "events": [dict(event) for event in events],
        "number": 1,
        "stream": "s",
        "resumes": False,
        "wait": 10,
        "window": list(relay_window),
        "lifeline": None,
    } | more


def connect(*events: dict[str, Any], window=Window(4, 1000), **more: Any) -> Connection:  # noqa: B008
    """Return a connection whose application has been started."""
    connection = Connection(
        RecordingLink(), "queue", opening(*events, **more), window, lambda connection: None
    )
    connection.start()
    return connection


def sent(connection: WorkerConnection) -> list[list[Any]]:
    """Return the entries that the worker has sent so far."""
    assert isinstance(connection.link, RecordingLink)
    return connection.link.sent()
