"""The endpoint of a worker, without I/O: openings, the application's end, the steps of stopping."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from gredis.messages import pack, unpack
from gredis.router import Router
from tests.thyme.split.worker.connections import CONNECT, Connection, opening
from thyme.errors import Disconnected
from thyme.split.flow_control import Window
from thyme.split.worker.endpoint import WorkerEndpoint

RELAY = "there!1"
ACCEPT = {"type": "websocket.accept"}
NOTE = {"type": "websocket.resume.note", "note": b"n"}


class Client:
    """A gredis client, and a driver, that record what they are asked for."""

    closing = False

    def __init__(self) -> None:
        self.router = Router()
        self.inbox = self.router.inbox
        self.posted: list[Any] = []
        self.rooms: list[str] = []
        self.soon: list[Any] = []
        self.later: list[Any] = []
        self.receivers: dict[str, Any] = {}
        self.left: list[str] = []
        self.lifelines: list[tuple[str, str]] = []

    # -- of the client

    def unicast_packed(self, address: Any, wire: bytes) -> Any:
        self.posted.append(unpack(wire))
        return SimpleNamespace()

    def consume(self, queue: str, receiver: Any, room: int) -> None:
        self.receivers[queue] = receiver

    def task_done(self, queue: str) -> None:
        self.rooms.append(queue)

    def stop_consuming(self, queue: str) -> None:
        self.left.append(queue)

    def call_later(self, seconds: float, function: Any) -> None:
        self.later.append(function)

    # -- of the driver

    def call_soon(self, function: Any) -> None:
        self.soon.append(function)

    def when_done(self, reply: Any, function: Any) -> None:
        function(b"OK", None)

    def on_drained(self) -> None:
        """No-op."""

    def hold_lifeline(self, place: str, inbox: str, endpoint: Any) -> None:
        self.lifelines.append((place, inbox))


class Worker:
    """An endpoint that takes connections from two queues."""

    def __init__(self) -> None:
        self.client = Client()
        self.started: list[Connection] = []
        self.endpoint: WorkerEndpoint[Connection] = WorkerEndpoint(
            self.client,
            self.client,
            connection_type=Connection,
            start=self.started.append,
            window=Window(4, 1000),
        )
        for queue in ("http", "websocket"):
            self.endpoint.take(queue, 10)

    def offer(self, *, number: int = 1, **more: Any) -> None:
        message = opening(CONNECT, connection=number, **{"from": RELAY}, **more)
        self.client.router.sent_at = int(time.monotonic() * 1000)
        self.client.receivers["websocket"](pack(message))

    def sent(self) -> list[list[Any]]:
        """Return the entries that have been sent: connections, kind, arguments."""
        while self.client.soon:
            self.client.soon.pop(0)()
        batches = [message for message in self.client.posted if isinstance(message, list)]
        return [entry for batch in batches for entry in batch[6] or ()]

    def kinds(self) -> list[tuple[int, str]]:
        return [(entry[0][0], entry[1]) for entry in self.sent()]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_connection_is_started_and_the_relay_told_so(worker):
    worker.offer(lifeline="host:1")
    (connection,) = worker.started
    assert worker.sent() == [[[1], "hello", 2, [4, 1000], worker.client.inbox]]
    assert worker.client.lifelines == [("host:1", "there")]
    assert list(worker.endpoint.connections) == [connection]


def test_an_opening_that_has_waited_too_long_is_ignored_unless_a_peer_is_connected(worker):
    worker.offer(wait=-1)
    assert not worker.started
    assert worker.client.rooms == ["websocket"]
    worker.offer(wait=-1, resumes=True)
    assert len(worker.started) == 1


def test_a_relay_of_another_version_is_told_in_words_that_every_version_understands(worker, caplog):
    worker.offer(version=9, oldest=8)
    assert not worker.started
    expected = {"connection": 1, "events": [], "end": "failed"}
    assert worker.client.posted == [expected | {"from": str(worker.endpoint.address)}]
    assert "uses protocol version 9, this worker supports 2 to 2" in caplog.text
    assert worker.client.rooms == ["websocket"]


def test_entries_of_unknown_kinds_and_connections_are_ignored(worker):
    worker.offer()
    (connection,) = worker.started
    connection.start()
    for entry in ([[1], "of a later release", 7], [[2], "event", {}], [[1], "event", {"a": 1}]):
        worker.endpoint.handle_entry(connection.link, entry)
    assert [connection.receive_nowait() for _ in range(3)] == [CONNECT, {"a": 1}, None]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "returned"), (Disconnected("gone"), "returned"), (KeyError("x"), "failed")],
)
def test_the_relay_is_told_how_the_application_has_ended(worker, error, outcome, caplog):
    worker.offer()
    (connection,) = worker.started
    with worker.endpoint.running(connection):
        if error is not None:
            raise error
    assert worker.sent()[-1] == [[1], "end", outcome]
    assert ("the application failed on websocket /" in caplog.text) == (outcome == "failed")
    assert worker.client.rooms == ["websocket"]
    assert not worker.endpoint.connections
    assert not connection.link.connections


def test_an_application_that_is_killed_is_stopped_and_the_kill_goes_on(worker):
    worker.offer()
    (connection,) = worker.started
    with pytest.raises(KeyboardInterrupt), worker.endpoint.running(connection):
        raise KeyboardInterrupt
    assert worker.sent()[-1] == [[1], "end", "stopped"]


def test_an_event_of_a_resumable_socket_is_acknowledged_before_long(worker):
    worker.offer(note=b"n")
    (connection,) = worker.started
    connection.start()
    connection.receive_nowait()
    connection.receive_nowait()
    assert worker.kinds() == [(1, "hello")]
    (acknowledge,) = worker.client.later
    acknowledge()
    assert worker.kinds() == [(1, "hello"), (1, "taken")]


def test_a_worker_that_stops_takes_nothing_and_gives_back_what_it_has_not_started(worker):
    worker.offer(number=1)
    worker.offer(number=2)
    started, not_started = worker.started
    started.start()
    worker.endpoint.stop_taking(["http", "websocket"])
    assert worker.client.left == ["http", "websocket"]
    assert worker.endpoint.stop_connections() == [not_started]
    worker.offer(number=3)  # it was on its way
    assert worker.started == [started, not_started]
    back = [number for number, kind in worker.kinds() if kind == "back"]
    assert back == [2, 3]
    assert list(worker.endpoint.connections) == [started]
    assert worker.client.rooms == []


def test_sockets_that_can_be_resumed_are_handed_over_when_the_time_is_over(worker):
    worker.offer(number=1, note=b"n")
    worker.offer(number=2)
    for connection in worker.started:
        connection.start()
        connection.receive_nowait()
        connection.send_nowait(ACCEPT)
    worker.endpoint.stop_connections()
    assert worker.endpoint.hand_over() == [worker.started[0]]
    assert [number for number, kind in worker.kinds() if kind == "leave"] == [1]


def test_a_relay_that_is_alive_has_taken_over_and_one_that_is_dead_has_not(worker):
    for number, alive in ((1, True), (2, False)):
        worker.offer(number=number, note=b"n")
        connection = worker.started[-1]
        connection.start()
        connection.receive_nowait()
        connection.send_nowait(ACCEPT)
        worker.endpoint.on_connection_lost(connection, alive)
    kinds = [connection.receive_nowait()["type"] for connection in worker.started]
    assert kinds == ["websocket.handover", "websocket.disconnect"]
