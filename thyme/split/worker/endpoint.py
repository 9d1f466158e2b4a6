"""The endpoint of a worker: takes connections from queues, and ends them when it stops. No I/O.

The worker that runs the application, and waits, is in `split/worker/gevent.py` and
`split/worker/asyncio.py`. What both do without waiting is here: accept an opening, pass entries on,
treat the application's end, and the steps of stopping:

    stop_taking()        no new connections
    stop_connections()   give back what has not been started, and stop the rest
    hand_over()          when the time is over: leave WebSockets that another worker can resume

Read next: `split/worker/gevent.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

from gredis.messages import pack, unpack
from gredis.names import Address
from thyme.errors import Disconnected
from thyme.split.endpoint import Driver, Endpoint
from thyme.split.flow_control import Window
from thyme.split.link import Link
from thyme.split.wire import (
    EVENT,
    FAILED,
    HELLO,
    OLDEST,
    RELEASE,
    STOPPED,
    VERSION,
    WINDOW_UPDATE,
    negotiate_version,
)
from thyme.split.worker.connection import WorkerConnection

log = logging.getLogger("thyme.worker")

CONNECTIONS = 1_000
"""Connections of one queue that a worker runs at the same time. More wait for another worker."""

QUEUES = {"http": CONNECTIONS, "websocket": CONNECTIONS}
"""The queues that a worker takes connections from by default."""

WORKER_DRAIN_SECONDS = 5.0
"""Seconds that requests in progress have to finish when the worker is told to stop. Less than the
server's (`config.DRAIN_SECONDS`): then a worker ends before a server that is stopped with it."""

HANDOVER_SECONDS = 1.0
"""Seconds that applications have to return when their connections continue in another worker."""

ACKNOWLEDGE_SECONDS = 0.005
"""Delay of the acknowledgement for an event of a resumable WebSocket, unless another message takes
it along: longer than a chat line needs to come back from its room, shorter than anybody types."""

C = TypeVar("C", bound=WorkerConnection)


class WorkerEndpoint(Endpoint, Generic[C]):
    """The endpoint of a worker. `start(connection)` starts the application on a connection.

    `connection_type` makes a connection from the arguments of `WorkerConnection`.
    """

    def __init__(
        self,
        crossbar: Any,
        driver: Driver,
        *,
        connection_type: Callable[..., C],
        start: Callable[[C], None],
        window: Window,
    ) -> None:
        super().__init__(crossbar, driver)
        self.window = window
        self.connections: dict[C, None] = {}  # in order of their arrival
        self._connection_type = connection_type
        self._start = start
        self._stopping = False
        self._unacknowledged: dict[WorkerConnection, None] = {}
        self._acknowledging = False

    # -- openings

    def take(self, queue: str, room: int) -> Any:
        """Take connections from `queue`, at most `room` at the same time; return gredis' reply."""
        return self.crossbar.consume(queue, lambda body: self._handle_opening(queue, body), room)

    def _handle_opening(self, queue: str, body: bytes) -> None:
        opening = unpack(body)
        version = negotiate_version(opening.get("oldest", opening["version"]), opening["version"])
        if version is None:
            self._refuse_version(queue, opening)
            return
        waited = time.monotonic() - self.crossbar.router.sent_at / 1000
        if waited > opening["wait"] and not opening["resumes"]:
            self._add_room(queue)  # the relay has answered the peer by now
            return
        link = self.link_to(opening["from"])
        if (place := opening.get("lifeline")) is not None:
            self.hold_lifeline(place, link.remote_inbox)
        connection = self._connection_type(
            link, queue, opening, self.window, self._acknowledge_soon
        )
        if self._stopping:
            self._send_hello(connection, version)
            connection.requeue()
            return
        link.connections[connection.number] = connection
        self.connections[connection] = None
        self._start(connection)
        # After `start`: what a fast application sends at once travels in the same batch.
        self._send_hello(connection, version)

    def _send_hello(self, connection: WorkerConnection, version: int) -> None:
        window = [self.window.events, self.window.bytes]
        connection.link.send(connection.number, HELLO, version, window, self.inbox)

    def _refuse_version(self, queue: str, opening: dict[str, Any]) -> None:
        log.error(
            "the server's relay uses protocol version %s, this worker supports %d to %d: run the "
            "same release of thyme in servers and workers",
            opening["version"],
            OLDEST,
            VERSION,
        )
        refusal: dict[str, Any] = {
            "from": str(self.address),
            "connection": opening.get("connection"),
            "events": [],
            "end": FAILED,
        }
        self.crossbar.unicast_packed(Address.parse(opening["from"]), pack(refusal))
        self._add_room(queue)

    def _add_room(self, queue: str) -> None:
        """Take another connection from the queue."""
        if not self._stopping:  # else this process would be registered as a taker again
            self.crossbar.task_done(queue)

    # -- entries from the relay

    def handle_entry(self, link: Link, entry: list[Any]) -> None:
        """Handle one entry of a batch."""
        connections, kind, *arguments = entry
        connection: WorkerConnection | None = link.connections.get(connections[0])
        handler = self._HANDLERS.get(kind)
        if connection is not None and handler is not None:
            handler(connection, *arguments)

    _HANDLERS: ClassVar[dict[str, Callable[..., None]]] = {
        EVENT: WorkerConnection.handle_event,
        WINDOW_UPDATE: WorkerConnection.handle_window_update,
        RELEASE: WorkerConnection.handle_release,
    }

    def on_connection_lost(self, connection: WorkerConnection, process_alive: bool) -> None:
        """The relay is dead; or it has taken this process for dead, and assigned other workers."""
        connection.handle_release(taken_over=process_alive)

    # -- the application

    @contextmanager
    def running(self, connection: C) -> Iterator[None]:
        """Call the application in this context, which tells the relay how it has ended."""
        connection.start()
        outcome = None
        try:
            yield
        except Disconnected:
            pass  # the application has learned that the peer is gone
        except Exception:
            log.exception(
                "the application failed on %s %s", connection.type, connection.scope.get("path")
            )
            outcome = FAILED
        except BaseException:  # its greenlet or task was killed
            outcome = STOPPED
            raise
        finally:
            self._forget(connection)
            connection.end(outcome)
            self._add_room(connection.queue)

    def _forget(self, connection: C) -> None:
        self.connections.pop(connection, None)
        self._unacknowledged.pop(connection, None)
        if connection.link.connections.get(connection.number) is connection:
            del connection.link.connections[connection.number]

    def _acknowledge_soon(self, connection: WorkerConnection) -> None:
        self._unacknowledged[connection] = None
        if not self._acknowledging:
            self._acknowledging = True
            self.crossbar.call_later(ACKNOWLEDGE_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        self._acknowledging = False
        connections, self._unacknowledged = self._unacknowledged, {}
        for connection in connections:
            connection.acknowledge()

    # -- stopping

    def stop_taking(self, queues: list[str]) -> dict[str, Any]:
        """Take no more connections; return gredis' replies by queue."""
        self._stopping = True
        return {queue: self.crossbar.stop_consuming(queue) for queue in queues}

    def stop_connections(self) -> list[C]:
        """Stop all connections. Return those that were given back because they were not started.

        The caller has to cancel the greenlets or tasks of these.
        """
        not_started = [each for each in self.connections if not each.started]
        for connection in not_started:
            self._forget(connection)
            connection.requeue()
        for connection in self.connections:
            connection.stop()
        return not_started

    def hand_over(self) -> list[C]:
        """Leave all WebSockets that another worker can resume; return them."""
        for connection in self.connections:
            connection.hand_over()
        return [connection for connection in self.connections if connection.handed_over]
