"""The two seams of thyme: what an application is, and what it talks to.

ASGI defines a *scope* (what a connection is about) and *events* (what happens on it). Two kinds of
application use them:

    ASGI 3        a coroutine function   `await application(scope, receive, send)`
    ASGI (esque)  an ordinary function   `application(scope, receive, send)`

The second kind runs in a greenlet of its own; `receive()` and `send(event)` block that greenlet and
nothing else. `loading.py` turns both kinds into an `Application`, which is all that a server or a
worker knows of them. An `Application` talks to a `Transport`: the HTTP request or WebSocket of a
server, or a worker's end of a relayed connection.

This module imports nothing of ours. Taught in notebooks/05_asgi_esque.ipynb.
Specification: https://asgi.readthedocs.io/en/latest/specs/main.html
Read next: `loading.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, runtime_checkable

Scope = dict[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Event]
Send = Callable[[Event], None]
BlockingApplication = Callable[[Scope, Receive, Send], None]
ASGI3Application = Callable[
    [Scope, Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]
]

State = dict[str, Any]
"""The namespace that an application fills at startup, and that each scope carries as "state"."""

MetricFamily = tuple[str, str, str, Mapping[str, float]]
"""One metric of an application: name, "counter" or "gauge", help text, and value by label text.

A label text is written as Prometheus writes it, `'queue="http"'`; it is "" without labels.
"""

SENT_NOWAIT = frozenset({"websocket.send", "http.response.start", "http.response.body"})
"""Types of events that `Transport.send_nowait` accepts. All others may block: use `send`."""


class Transport(Protocol):
    """The connection that an application serves, seen from the application.

    `receive` and `send` are ASGI's, blocking the calling greenlet. The other three do the same
    without blocking, so that a caller who must not wait (the event loop's greenlet, a relay that
    serves many connections) needs no greenlet per event.
    """

    coalesce: bool
    """`send` may leave a message to the end of the hub's round, to be written with others."""

    def receive(self) -> Event:
        """Return the next event; block until there is one."""

    def receive_nowait(self) -> Event | None:
        """Return the next event, or None if `receive` would block."""

    def send(self, event: Event) -> None:
        """Send `event`; return when the peer has room for more (back-pressure).

        Raises `thyme.errors.Disconnected` when the peer is gone, `ApplicationError` when the event
        is invalid at this point.
        """

    def send_nowait(self, event: Event) -> bool:
        """Send an event whose type is in `SENT_NOWAIT`; never block.

        Returns False when the peer has no room: then `drain` must be called before the next send.
        Raises as `send`.
        """

    def drain(self) -> None:
        """Block until the peer has room again, after `send_nowait` has returned False."""


class BlockingTransport:
    """A `Transport` made of the two callables of ASGI (esque), which can only block.

    `receive_nowait` never finds an event, and `send_nowait` leaves each event to `drain`.
    """

    __slots__ = ("_pending", "coalesce", "receive", "send")

    def __init__(self, receive: Receive, send: Send) -> None:
        self.receive = receive
        self.send = send
        self.coalesce = False
        self._pending: list[Event] = []

    def receive_nowait(self) -> Event | None:
        """Return None: a foreign `receive` can only block."""
        return None

    def send_nowait(self, event: Event) -> bool:
        """Keep `event` for `drain`, and return False."""
        self._pending.append(event)
        return False

    def drain(self) -> None:
        """Send the oldest event that is kept."""
        if self._pending:
            self.send(self._pending.pop(0))


@runtime_checkable
class Application(Protocol):
    """An application, as a server or a worker runs it: `serve` for each connection.

    `startup` is called before the first and `close` after the last connection.

    A class that inherits from it need only define `serve`.
    """

    @abstractmethod
    def serve(self, scope: Scope, transport: Transport) -> None:
        """Serve one connection in the calling greenlet; return when the application has ended."""

    def startup(self) -> State | None:
        """Prepare to serve, before the first connection; return the state for all scopes, if any.

        Raises `thyme.errors.StartupFailed` when the application cannot serve.
        """
        return None

    def close(self) -> None:
        """Clean up, after the last connection has ended."""
        return None

    def metrics(self) -> list[MetricFamily]:
        """Return the application's own metrics, which are added to the server's."""
        return []

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of a caller that has no `Transport`: ASGI (esque)."""
        self.serve(scope, BlockingTransport(receive, send))


class FunctionApplication(Application):
    """An `Application` that calls an ordinary function (ASGI, esque).

    An object that is called like a function may also have the methods `startup`, `close` and
    `metrics`, each of them optional.
    """

    def __init__(self, function: BlockingApplication) -> None:
        self.function = function
        for name in ("startup", "close", "metrics"):
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))

    def serve(self, scope: Scope, transport: Transport) -> None:
        """Call the function with the two callables of the transport."""
        self.function(scope, transport.receive, transport.send)


def as_application(application: Application | BlockingApplication) -> Application:
    """Return `application` itself if it is an `Application`, else one that calls it."""
    if isinstance(application, Application):
        return application
    return FunctionApplication(application)
