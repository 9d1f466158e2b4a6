"""The worker on plain asyncio, over a real Redis: how it stops."""

from __future__ import annotations

import asyncio

from tests.thyme.peer import CONNECT, HTTP, REQUEST, WEBSOCKET
from tests.thyme.split.site_asyncio import AsyncPeer, relaying, run, working
from thyme.split.flow_control import Window


def test_requests_are_finished_when_a_worker_stops(redis_server):
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow(scope, receive, send):
        begun.set()
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def main():
        async with relaying(redis_server.url) as relay:
            async with working(redis_server.url, slow, drain_seconds=30) as worker:
                peer = AsyncPeer(relay, HTTP, REQUEST)
                await begun.wait()
                worker.stop()
                gate.set()
            assert (await peer.end())[1]["body"] == b"done"

    run(main)


def test_an_application_that_does_not_end_is_cancelled_and_its_socket_closed_with_1012(
    redis_server,
):
    ended = []

    async def stubborn(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main():
        async with relaying(redis_server.url) as relay:
            async with working(redis_server.url, stubborn):
                peer = AsyncPeer(relay, WEBSOCKET, CONNECT)
                assert (await peer.sent.get())["type"] == "websocket.accept"
            (close,) = await peer.end()
            assert (close["type"], close["code"]) == ("websocket.close", 1012)
            assert ended == ["cancelled"]

    run(main)


def test_a_resumable_socket_moves_to_another_worker_when_its_worker_stops(redis_server):
    received = []

    async def resumable(scope, receive, send):
        note = scope["extensions"]["websocket.resume"]["note"]
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.resume.note", "note": b"n"})
        await send({"type": "websocket.send", "text": f"note {note}"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        received.append(event["type"])

    async def main():
        url = redis_server.url
        async with relaying(url) as relay, working(url, resumable) as first:
            peer = AsyncPeer(relay, WEBSOCKET, CONNECT)
            texts = [(await peer.sent.get()).get("text") for _ in range(2)]
            assert texts == [None, "note None"]
            async with working(url, resumable):
                first.stop()
                assert (await peer.sent.get())["text"] == "note b'n'"
                peer.say("still here?")
                assert (await peer.sent.get())["text"] == "still here?"
                peer.leave()
                assert await peer.end() == []
        assert received == ["websocket.handover", "websocket.disconnect"]

    run(main)


def test_send_waits_while_the_peer_does_not_read(redis_server):
    sent = []

    async def floods(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        for number in range(20):
            await send({"type": "websocket.send", "text": str(number)})
            sent.append(number)
        await receive()

    async def main():
        window = Window(events=4)
        async with relaying(redis_server.url, window=window) as relay:
            async with working(redis_server.url, floods, window=window):
                gate, texts = asyncio.Event(), []
                events = iter([CONNECT])

                async def receive():
                    if (event := next(events, None)) is not None:
                        return event
                    await asyncio.Event().wait()

                async def send(event):
                    if event["type"] == "websocket.send":
                        await gate.wait()
                        texts.append(event["text"])

                serving = asyncio.create_task(relay(dict(WEBSOCKET), receive, send))
                while len(sent) < 2:
                    await asyncio.sleep(0)
                for _ in range(100):  # rounds of the loop: time enough for more, if there were room
                    await asyncio.sleep(0)
                assert len(sent) < 2 * window.events
                gate.set()
                while len(texts) < 20:
                    await asyncio.sleep(0)
                assert texts == [str(number) for number in range(20)]
            await serving

    run(main)
