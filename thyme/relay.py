"""The relay: an application that hands each connection to a worker.

For the server it is an application like any other; for the application in the worker it is the
server. It knows nothing of either: ASGI events go in on one side and come out on the other.

    server ── scope, events ──► relay ── anycast to a queue ──► a worker that has room
                                  ◄────── unicast: events ──────► (from then on)

What crosses is said in `portable` and in the messages below; all are MessagePack maps:

    to the queue      {"version", "from": address of the relay's end, "scope", "events": [first]}
    to the worker     {"events": [event, …]}
    to the relay      {"from": address of the worker's end, "events": [event, …], "end": how}

"end" comes with the last message: "returned", "failed" (the application raised) or "stopped" (the
worker ends).

The relay leaves it to `worker.py` to run the application, and to gredis to find one.
Read next: `worker.py`.
"""

from __future__ import annotations

import logging
from typing import Any

import gevent
from gevent.event import AsyncResult

from gredis.drivers.gevent import GeventCrossbar, Mailbox, connect
from gredis.errors import Full, Gone, GredisError
from gredis.names import Address
from thyme.application import Disconnected, Event, Receive, Scope, Send

log = logging.getLogger("thyme.relay")

VERSION = 1
"""Of the messages that cross between relay and worker."""

DISCONNECTS: dict[str, Event] = {
    "http": {"type": "http.disconnect"},
    "websocket": {"type": "websocket.disconnect", "code": 1006},
}
"""What an application receives when the other half of the split has gone, by type of scope."""

STAYS = frozenset({"state", "extensions", "app"})
"""Keys of a scope that mean something only in the server's process."""

CROSSES = frozenset({"websocket.http.response", "http.response.trailers"})
"""Extensions whose events can cross: they hold bytes, not files or sockets."""


class WorkerLost(Exception):
    """The worker died, or the application failed, after the response had begun."""


def portable(scope: Scope) -> Scope:
    """The part of a scope that can cross to another process."""
    crossing = {key: value for key, value in scope.items() if key not in STAYS}
    extensions = scope.get("extensions") or {}
    crossing["extensions"] = {name: extensions[name] for name in CROSSES & extensions.keys()}
    return crossing


class Relay:
    """An esque application that runs each connection on a worker.

    `url`, `prefix`: the crossbar, as for `gredis`. Connections wait in the queue named like their
    scope's type, "http" or "websocket".
    """

    def __init__(self, url: str, prefix: str = "gredis") -> None:
        self.url = url
        self.prefix = prefix

    @property
    def crossbar(self) -> GeventCrossbar:
        """The crossbar of this process."""
        return connect(self.url, self.prefix)

    def close(self) -> None:
        """Leave the crossbar; the server calls this when it has stopped."""
        self.crossbar.close()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the connection to a worker, and carry its events until it ends."""
        _Relayed(self.crossbar, scope, receive, send).run()


class _Relayed:
    """One connection, on the server's side.

    Two greenlets: the connection's own carries what comes from the worker, a second one (the
    forwarder) what comes from the peer.
    """

    def __init__(
        self, crossbar: GeventCrossbar, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.crossbar = crossbar
        self.scope = scope
        self.receive = receive
        self.send = send
        self.type: str = scope["type"]
        self.worker: Address | None = None
        self.worker_known: AsyncResult = AsyncResult()
        self.started = False
        self.ended = False

    def run(self) -> None:
        first = self.receive()
        mailbox = self.crossbar.mailbox()
        forwarder = None
        try:
            self._open(mailbox, first)
            forwarder = gevent.spawn(self._forward)
            self._carry(mailbox)
        except Full:
            self._refuse(503, 1013, "All workers are busy")
        except Gone:
            self.ended = True
            log.warning("a worker died with a %s connection of ours", self.type)
            self._refuse(502, 1012, "The worker died")
        except GredisError as error:
            log.error("cannot reach the workers: %s", error)
            self._refuse(502, 1012, "The workers cannot be reached")
        finally:
            if forwarder is not None:
                forwarder.kill()
            self._say_good_bye()
            mailbox.close()

    def _open(self, mailbox: Mailbox, first: Event) -> None:
        opening = {
            "version": VERSION,
            "from": str(mailbox.address),
            "scope": portable(self.scope),
            "events": [first],
        }
        taken: bytes = self.crossbar.anycast_soon(self.type, opening).get()
        if taken == b"FULL":
            raise Full(f"queue {self.type!r} is full")
        if taken != b"WAITING":
            mailbox.watch(taken.decode())

    def _carry(self, mailbox: Mailbox) -> None:
        """Carry the worker's events to the peer until the worker says that it was the last."""
        while not self.ended:
            message = mailbox.get()
            if self.worker is None:
                self.worker = Address.parse(message["from"])
                mailbox.watch(self.worker.inbox)
                self.worker_known.set(self.worker)
            for event in message["events"]:
                self._deliver(event)
            if "end" in message:
                self.ended = True
                self._end(message["end"])

    def _deliver(self, event: Event) -> None:
        self.started = True
        try:
            self.send(event)
        except Disconnected:
            pass  # the forwarder tells the worker, which ends the connection in its own time

    def _end(self, how: str) -> None:
        if how == "failed":
            self._refuse(500, 1011, "Internal Server Error")
        elif how == "stopped":
            self._refuse(503, 1012, "The worker is restarting")

    def _forward(self) -> None:
        """Carry the peer's events to the worker until the peer has gone."""
        last = DISCONNECTS[self.type]["type"]
        while True:
            event = self.receive()
            worker = self.worker_known.get()
            try:
                self.crossbar.unicast(worker, {"events": [event]})
            except GredisError as error:
                log.warning("an event did not reach its worker: %s", error)
            if event["type"] == last:
                return

    def _refuse(self, status: int, code: int, reason: str) -> None:
        """Answer in the application's place: `status` for HTTP, close `code` for a WebSocket."""
        try:
            if self.type == "websocket":
                self.send({"type": "websocket.close", "code": code, "reason": reason})
            elif self.started:
                raise WorkerLost(reason)  # too late for a status: the server cuts the response off
            else:
                for event in plain_response(status, reason):
                    self.send(event)
        except Disconnected:
            pass

    def _say_good_bye(self) -> None:
        """A connection that ends here, and not there, ends there too (the server stops)."""
        if not self.ended and self.worker is not None:
            self.crossbar.unicast_soon(self.worker, {"events": [DISCONNECTS[self.type]]})


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
