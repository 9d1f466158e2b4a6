"""The relay for any ASGI server: plain asyncio, over a real Redis."""

from __future__ import annotations

import asyncio

import pytest

from tests.thyme.peer import CONNECT, HTTP, REQUEST, WEBSOCKET
from tests.thyme.split.site_asyncio import AsyncPeer, relaying, run, working
from thyme.errors import WorkerLost
from thyme.split.flow_control import Queue


async def echo(scope, receive, send):
    assert await receive() == CONNECT
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def test_a_page_crosses_and_its_headers_are_pairs(redis_server):
    async def main():
        async with relaying(redis_server.url) as relay, working(redis_server.url, hello):
            start, body = await AsyncPeer(relay, HTTP, REQUEST).end()
            assert start["headers"] == [(b"a", b"b")]
            assert body["body"] == b"/"

    run(main)


def test_a_websocket_talks_both_ways(redis_server):
    async def main():
        async with relaying(redis_server.url) as relay, working(redis_server.url, echo):
            peer = AsyncPeer(relay, WEBSOCKET, CONNECT)
            assert (await peer.sent.get())["type"] == "websocket.accept"
            for text in "abc":
                peer.say(text)
            assert [(await peer.sent.get())["text"] for _ in range(3)] == ["a", "b", "c"]
            peer.leave()
            assert await peer.end() == []
            assert not relay.endpoint.assignments

    run(main)


def test_a_connection_that_no_worker_takes_in_time_is_refused(redis_server):
    async def main():
        options = {"http": Queue("nobody", seconds=0.1)}
        async with relaying(redis_server.url, **options) as relay:
            start, _ = await AsyncPeer(relay, HTTP, REQUEST).end()
            assert start["status"] == 503

    run(main)


def test_a_response_that_breaks_off_is_an_error_for_the_server(redis_server):
    async def breaks_off(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise KeyError("the application's own mistake")

    async def main():
        async with relaying(redis_server.url) as relay, working(redis_server.url, breaks_off):
            with pytest.raises(WorkerLost):
                await AsyncPeer(relay, HTTP, REQUEST).end()

    run(main)


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError])
def test_a_peer_that_has_left_is_no_error(redis_server, error):
    """Uvicorn raises `RuntimeError` for an event after the disconnect, others an `OSError`."""

    async def talks(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def main():
        async with relaying(redis_server.url) as relay, working(redis_server.url, talks):
            left = asyncio.Event()

            async def receive():
                if not left.is_set():
                    left.set()
                    return CONNECT
                return {"type": "websocket.disconnect", "code": 1001}

            async def send(event):
                raise error("the peer has left")

            await relay(dict(WEBSOCKET), receive, send)

    run(main)


def test_the_client_is_closed_when_the_server_ends_the_lifespan(redis_server):
    async def main():
        async with relaying(redis_server.url) as relay:
            crossbar = relay.crossbar
            await crossbar.open()
            lifespan = AsyncPeer(
                relay,
                {"type": "lifespan"},
                {"type": "lifespan.startup"},
                {"type": "lifespan.shutdown"},
            )
            kinds = [event["type"] for event in await lifespan.end()]
            assert kinds == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
            assert crossbar.closed

    run(main)
