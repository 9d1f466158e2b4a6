"""The life of an application: startup before the first connection, close after the last."""

from __future__ import annotations

from typing import Any

import pytest

from tests.thyme.serving import HTTPPeer, hello, serving
from thyme.asgi import Receive, Scope, Send
from thyme.config import Config
from thyme.errors import StartupFailed
from thyme.loading import prepare
from thyme.server.server import Server


class Application:
    """An esque application with both methods."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def startup(self) -> dict[str, Any]:
        self.told.append("startup")
        return {"pool": self}

    def close(self) -> None:
        self.told.append("close")

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.told.append(scope["state"])
        scope["state"]["mine"] = True
        hello(scope, receive, send)


def test_startup_comes_first_close_last_and_each_scope_has_a_copy_of_the_state() -> None:
    application = Application()
    with serving(application) as server, HTTPPeer(server) as peer:
        for _ in range(2):
            peer.ask()
            peer.answer()
        assert application.told == ["startup", *[{"pool": application, "mine": True}] * 2]
    assert application.told[-1] == "close"
    assert application.told.count("close") == 1


def test_a_close_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None: ...

    def close() -> None:
        raise ValueError("no")

    application.close = close  # type: ignore[attr-defined]
    with serving(application):
        pass
    assert "close() failed" in caplog.text


async def answer(scope: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": str(scope.get("state")).encode()})


def test_an_asgi_application_has_its_lifespan() -> None:
    told: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await answer(scope, send)
            return
        assert scope["asgi"]["version"] == "3.0"
        told.append((await receive())["type"])
        scope["state"]["answer"] = 42
        await send({"type": "lifespan.startup.complete"})
        told.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    with serving(prepare(application)) as server, HTTPPeer(server) as peer:
        assert told == ["lifespan.startup"]
        peer.ask()
        assert peer.answer() == (200, b"{'answer': 42}")
    assert told == ["lifespan.startup", "lifespan.shutdown"]


def test_an_asgi_application_without_a_lifespan_is_served_all_the_same() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise ValueError("only http here")
        await answer(scope, send)

    with serving(prepare(application)) as server, HTTPPeer(server) as peer:
        peer.ask()
        assert peer.answer() == (200, b"{}")


def test_a_startup_that_fails_keeps_the_server_from_listening() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    server = Server(prepare(application), Config(port=0))
    with pytest.raises(StartupFailed, match="no database"):
        server.start()
    with pytest.raises(RuntimeError, match="before start"):
        _ = server.address


def test_a_shutdown_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "still busy"})

    with serving(prepare(application)):
        pass
    assert "still busy" in caplog.text
