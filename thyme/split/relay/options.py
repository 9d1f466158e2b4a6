"""The options of a relay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from thyme.asgi import Scope
from thyme.split.flow_control import DEFAULT_WINDOW, HTTP_QUEUE, WEBSOCKET_QUEUE, Queue, Window


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """The options of a relay.

    `http`, `websocket`: the queues for connections of these types. `choose(scope)`: returns another
    queue for some connections, and None for all others. `window`: how much is kept per connection,
    both of what a worker sends and of what a peer sends. `lifeline`: the host name or address where
    lifelines are accepted, which workers must be able to reach; None: no lifelines.
    """

    http: Queue = HTTP_QUEUE
    websocket: Queue = WEBSOCKET_QUEUE
    choose: Callable[[Scope], Queue | None] = lambda scope: None
    window: Window = DEFAULT_WINDOW
    lifeline: str | None = "127.0.0.1"

    def queue_for(self, scope: Scope) -> Queue:
        """Return the queue in which a connection waits for its worker."""
        usual = self.http if scope["type"] == "http" else self.websocket
        return self.choose(scope) or usual
