"""The client without I/O: which host a call goes to, time-outs, and probes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from gredis.client import Client, HostConnection, raise_if_full
from gredis.errors import Closed, Full, RedisRefused, Unreachable
from gredis.session import GRACE


class Reply:
    """A future for callers that do not wait."""

    value: Any = None
    error: Exception | None = None

    def done(self) -> bool:
        return self.value is not None or self.error is not None

    def set_result(self, value: Any) -> None:
        self.value = value

    def set_exception(self, error: Exception) -> None:
        self.error = error


class IdleConnection(HostConnection):
    """A connection that is never made."""

    started = False

    def start(self) -> None:
        self.started = True

    def write(self) -> None:
        """No-op."""

    def stop(self) -> None:
        self.started = False

    def close_inherited(self) -> None:
        """No-op."""


class IdleClient(Client):
    """A client with timers that a test runs by hand."""

    connection_type = IdleConnection

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.timers: dict[int, tuple[float, Callable[[], None]]] = {}
        self.made = 0
        super().__init__(*arguments, **options)

    @staticmethod
    def new_reply() -> Reply:
        return Reply()

    def call_later(self, seconds: float, function: Callable[[], None]) -> int:
        self.made += 1
        self.timers[self.made] = (seconds, function)
        return self.made

    def cancel_timer(self, timer: int) -> None:
        self.timers.pop(timer, None)

    def run_timer(self) -> float:
        """Run the oldest timer; return its seconds."""
        seconds, function = self.timers.pop(min(self.timers))
        function()
        return seconds


HOSTS = ["tcp://a", "tcp://b", "tcp://c"]


def pending(client: Client) -> list[bool]:
    return [connection.session.has_pending_calls for connection in client.connections]


def test_a_name_belongs_to_one_host_in_every_process():
    one, two = IdleClient(HOSTS), IdleClient(" ".join(HOSTS))
    names = [f"room-{number}" for number in range(100)]
    places = [one.host_index(name) for name in names]
    assert places == [two.host_index(name) for name in names]
    assert set(places) == {0, 1, 2}


def test_a_call_goes_to_the_host_of_its_name_and_others_to_all():
    client = IdleClient(HOSTS)
    client.multicast_soon("room", "x")
    assert pending(client) == [index == client.host_index("room") for index in range(3)]
    client.ping()
    assert pending(client) == [True] * 3


def test_callers_time_out_while_the_host_is_away():
    client = IdleClient("tcp://a", timeout=3)
    reply = client.multicast_soon("room", "x")
    client.multicast_soon("room", "y")
    assert len(client.timers) == 1
    assert client.run_timer() == 3
    assert isinstance(reply.error, Unreachable)
    assert str(reply.error) == "no answer from tcp://a for 3 s"


def test_a_refusal_fails_the_callers_and_is_logged_once(caplog):
    client = IdleClient("tcp://a")
    (connection,) = client.connections
    reply = client.multicast_soon("room", "x")
    with caplog.at_level(logging.ERROR, "gredis"):
        for _ in range(3):
            connection.on_error(RedisRefused("WRONGPASS"))
    assert str(reply.error) == "WRONGPASS"
    assert [record.message for record in caplog.records] == ["tcp://a: WRONGPASS"]


def test_a_bug_is_logged_with_its_traceback(caplog):
    client = IdleClient("tcp://a")
    client.connections[0].on_error(ValueError("a bug"))
    (record,) = caplog.records
    assert record.exc_info[1].args == ("a bug",)


def test_a_closed_client_makes_no_calls_and_leaves_no_timers():
    client = IdleClient("tcp://a")
    waiting = client.multicast_soon("room", "x")
    client.abort()
    assert isinstance(waiting.error, Closed)
    assert client.timers == {}
    assert client.task_done("queue") is None
    with pytest.raises(Closed):
        client.multicast_soon("room", "x")


def test_an_object_is_shared_by_all_users_of_a_client():
    one, two = IdleClient("tcp://a"), IdleClient("tcp://a")
    assert one.shared(list_of) is one.shared(list_of)
    assert one.shared(list_of) is not two.shared(list_of)
    assert one.shared(list_of) == [one]


def list_of(client: Client) -> list[Client]:
    return [client]


def test_a_full_destination_raises():
    raise_if_full(b"OK", "the queue")
    with pytest.raises(Full, match="the queue is full"):
        raise_if_full(b"FULL", "the queue")


def test_the_grace_is_longer_than_reconnecting_takes():
    assert GRACE >= 0.5
