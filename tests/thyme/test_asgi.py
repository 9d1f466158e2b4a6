"""The seams: an application of any kind is served alike, and any caller can be a transport."""

import pytest

from thyme.asgi import (
    Application,
    BlockingTransport,
    FunctionApplication,
    Scope,
    Transport,
    as_application,
)

EVENT = {"type": "websocket.send", "text": "hello"}


class Answering(Application):
    def serve(self, scope: Scope, transport: Transport) -> None:
        transport.send({"type": "heard", "event": transport.receive(), "scope": scope})


def test_an_application_is_taken_as_it_is() -> None:
    application = Answering()
    assert as_application(application) is application


def test_an_ordinary_function_gets_the_callables_of_the_transport() -> None:
    def function(scope, receive, send):
        send({"type": "heard", "event": receive(), "scope": scope})

    sent: list[object] = []
    as_application(function).serve({"a": 1}, BlockingTransport(lambda: EVENT, sent.append))
    assert sent == [{"type": "heard", "event": EVENT, "scope": {"a": 1}}]


def test_an_application_can_be_called_like_a_function() -> None:
    sent: list[object] = []
    Answering()({}, lambda: EVENT, sent.append)
    assert sent == [{"type": "heard", "event": EVENT, "scope": {}}]


def test_startup_close_and_metrics_are_optional() -> None:
    application = as_application(lambda scope, receive, send: None)
    assert application.startup() is None
    assert application.close() is None
    assert application.metrics() == []


def test_startup_close_and_metrics_of_a_callable_object_are_used() -> None:
    class Callable:
        def __call__(self, scope, receive, send): ...

        def startup(self):
            return {"pool": 1}

        def close(self):
            closed.append(True)

        def metrics(self):
            return [("a", "gauge", "An a", {"": 1.0})]

    closed: list[bool] = []
    application = as_application(Callable())
    assert isinstance(application, FunctionApplication)
    assert application.startup() == {"pool": 1}
    application.close()
    assert closed == [True]
    assert application.metrics() == [("a", "gauge", "An a", {"": 1.0})]


def test_a_transport_that_can_only_block_leaves_each_event_to_drain_in_order() -> None:
    sent: list[object] = []
    transport = BlockingTransport(lambda: pytest.fail("it would block"), sent.append)
    assert transport.receive_nowait() is None
    assert not transport.send_nowait({"type": "a"})
    assert not transport.send_nowait({"type": "b"})
    assert sent == []
    transport.drain()
    transport.drain()
    transport.drain()
    assert sent == [{"type": "a"}, {"type": "b"}]
