"""The options of a relay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from thyme.asgi import Scope
from thyme.split.flow_control import HTTP, WEBSOCKET, WINDOW, Queue, Window


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """What can be set of a relay.

    `http`, `websocket`: the queues for connections of that type; `choose(scope)`: another one for
    some, or None; `window`: how much of what a worker sends, and of what a peer sends, is held per
    connection; `lifeline`: the host to take lifelines at, which workers must reach; None for none.
    """

    http: Queue = HTTP
    websocket: Queue = WEBSOCKET
    choose: Callable[[Scope], Queue | None] = lambda scope: None
    window: Window = WINDOW
    lifeline: str | None = "127.0.0.1"

    def queue_of(self, scope: Scope) -> Queue:
        """Where a connection waits for its worker."""
        usual = self.http if scope["type"] == "http" else self.websocket
        return self.choose(scope) or usual
