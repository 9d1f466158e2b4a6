"""A server's half of a connection, without a socket: what an application is given in the tests."""

from __future__ import annotations

from typing import Any

import gevent
from gevent.queue import Queue

from thyme.asgi import Application, BlockingApplication, BlockingTransport, as_application
from thyme.errors import Disconnected

HTTP = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"x"), (b"cookie", b"a=b")],
    "client": ("127.0.0.1", 4711),
    "server": ("127.0.0.1", 80),
}
WEBSOCKET = HTTP | {"type": "websocket", "scheme": "ws", "subprotocols": ["chat"]}
REQUEST = {"type": "http.request", "body": b"", "more_body": False}
CONNECT = {"type": "websocket.connect"}


class Peer:
    """Runs an application on events that the test puts in, and keeps what it sends."""

    def __init__(
        self, application: Application | BlockingApplication, scope: dict[str, Any], *events: Any
    ) -> None:
        self.incoming: Queue = Queue()
        self.sent: Queue = Queue()
        self.gone = False
        for event in events:
            self.incoming.put(event)
        serve = as_application(application).serve
        self.greenlet = gevent.spawn(serve, dict(scope), self._transport())

    def _transport(self) -> Any:
        return BlockingTransport(self.incoming.get, self.send)

    def send(self, event: Any) -> None:
        if self.gone:
            raise Disconnected("the peer has gone")
        self.sent.put(event)

    def say(self, text: str) -> None:
        self.incoming.put({"type": "websocket.receive", "text": text})

    def next(self) -> Any:
        return self.sent.get(timeout=30)

    def leave(self) -> None:
        self.incoming.put({"type": "websocket.disconnect", "code": 1001})

    def end(self) -> list[Any]:
        """Wait for the application; what it sent that nobody has taken yet."""
        self.greenlet.get(timeout=30)
        return [self.sent.get() for _ in range(self.sent.qsize())]


class ReadyPeer(Peer):
    """A transport that can receive and send without blocking, as our own server's can."""

    coalesce = False

    def _transport(self) -> Any:
        return self

    def receive(self) -> Any:
        return self.incoming.get()

    def send_nowait(self, event: Any) -> bool:
        self.send(event)
        return True

    def drain(self) -> None:
        """Nothing is ever left to send."""

    def receive_nowait(self) -> Any:
        return self.incoming.get_nowait() if self.incoming.qsize() else None
