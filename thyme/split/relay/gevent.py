"""The relay: an application that hands each connection to a worker.

To the server it is an application like any other; to the application in the worker it is the
server. It depends on neither: ASGI events go in on one side and come out on the other.

    server ── scope, events ──► relay ── anycast to a queue ──► a worker that has room
                                  ◄────── unicast: batches ─────► (from then on)

This is the relay on gevent. Two greenlets per connection wait, one for the peer and one for the
worker. `split/relay/asyncio.py` is the same for any ASGI server on asyncio. Both share what is
decided without waiting; to be read in this order: `split/wire.py` (the messages),
`split/flow_control.py` (how much), `split/link.py` (between two processes), `split/relay/output.py`
and `split/relay/connection.py` (one connection, and how it outlives its worker),
`split/endpoint.py` (how a death is noticed) and `split/relay/endpoint.py` (all connections).

Taught in notebooks/09_relay_and_workers.ipynb.
Read next: `split/worker/gevent.py`.
"""

from __future__ import annotations

from typing import Any

import gevent
from gevent.event import Event

from gredis.drivers.gevent import GeventCrossbar, connect
from gredis.status import metrics
from thyme.asgi import Application, MetricFamily, Scope, Transport
from thyme.errors import Disconnected, WorkerLost
from thyme.split.drivers.gevent import GeventDriver
from thyme.split.endpoint import FLUSH_SECONDS
from thyme.split.flow_control import Queue, Window
from thyme.split.relay.connection import RelayedConnection
from thyme.split.relay.endpoint import RelayEndpoint
from thyme.split.relay.options import RelayOptions
from thyme.split.relay.output import DRAIN

__all__ = ["Queue", "Relay", "Window", "WorkerLost"]


class Relay(Application):
    """An application that runs each connection on a worker.

    `url`, `prefix`: where gredis is, as for `gredis.connect`. `options`: see `RelayOptions`.
    """

    def __init__(self, url: str, prefix: str = "gredis", **options: Any) -> None:
        self.url = url
        self.prefix = prefix
        self.options = RelayOptions(**options)
        self._endpoint: RelayEndpoint | None = None

    @property
    def crossbar(self) -> GeventCrossbar:
        """The gredis client of this process."""
        return connect(self.url, self.prefix)

    @property
    def endpoint(self) -> RelayEndpoint:
        """The endpoint to which workers send. Created when it is first used."""
        crossbar = self.crossbar
        if self._endpoint is None or self._endpoint.crossbar is not crossbar:
            self._close_endpoint()  # its client was closed by another part of the process
            self._driver = GeventDriver()
            self._endpoint = RelayEndpoint(crossbar, self._driver, self.options)
        return self._endpoint

    def metrics(self) -> list[MetricFamily]:
        """Return the metrics of gredis: lengths of queues, lost messages."""
        return list(metrics(self.crossbar))

    def close(self) -> None:
        """Close the gredis client. The server calls this when it has stopped."""
        self._close_endpoint()
        self.crossbar.close()

    def _close_endpoint(self) -> None:
        if self._endpoint is not None:
            if not self._endpoint.crossbar.closed:
                self._driver.wait_until_drained(self._endpoint, FLUSH_SECONDS)
            self._endpoint.close()
            self._endpoint = None

    def serve(self, scope: Scope, transport: Transport) -> None:
        """Assign the connection to a worker, and carry its events until it ends."""
        endpoint = self.endpoint
        output, room = Event(), Event()
        connection = endpoint.new_connection(
            scope, notify=output.set, on_room=room.set, send_nowait=transport.send_nowait
        )
        connection.receive_from_peer(transport.receive())
        reader = gevent.spawn(_forward, connection, transport, room)
        try:
            endpoint.assign(connection)
            _write(connection, transport, output)
        finally:
            reader.kill()
            endpoint.release(connection)
        if connection.error is not None:
            raise connection.error
        if connection.peer_gone and connection.type == "http":
            raise Disconnected("the client has disconnected, and the worker was informed")


def _write(connection: RelayedConnection, transport: Transport, output: Event) -> None:
    """Send the worker's events to the peer, until there will be no more."""
    while True:
        write = connection.output.next()
        if write is None:
            if connection.closed:
                return
            output.clear()
            output.wait()
            continue
        try:
            if write.event is DRAIN:
                transport.drain()
            else:
                transport.send(write.event)
        except Disconnected:
            pass  # `_forward` tells the worker, which ends the connection in its own time
        connection.output.written(write)


def _forward(connection: RelayedConnection, transport: Transport, room: Event) -> None:
    """Send the peer's events to the worker, until the peer is gone."""
    while not (connection.peer_gone or connection.closed):
        if connection.has_room:
            connection.receive_from_peer(transport.receive())
        else:
            room.clear()
            room.wait()
