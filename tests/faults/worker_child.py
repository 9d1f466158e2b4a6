"""A worker in a process of its own, with a small application: `worker_child.py LOOP URL SECONDS`.

SECONDS are its drain's. For what only processes can show: death. The application is named by the
path of the scope.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

NOTE = b"a note"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    kind = scope["path"].strip("/")
    if scope["type"] == "http":
        await (upload if kind == "upload" else download if kind == "download" else page)(
            scope, receive, send
        )
        return
    offer = scope["extensions"]["websocket.resume"]
    await receive()
    if scope["query_string"] == b"slow":
        print("begun", flush=True)
        await asyncio.sleep(0.5)
    await send({"type": "websocket.accept"})
    if kind == "resumes":
        await send({"type": "websocket.send", "text": f"{os.getpid()} {offer['note']}"})
        await send({"type": "websocket.resume.note", "note": NOTE})
    while (event := await receive())["type"] == "websocket.receive":
        if event["text"] == "die":
            os.kill(os.getpid(), 9)
        if event["text"] == "flood":
            for number in range(1000):
                await send({"type": "websocket.send", "text": f"{number} " + "x" * 10_000})
        elif event["text"] == "stall" or (event["text"] == "stall here" and not offer["note"]):
            print("begun", flush=True)
            await asyncio.sleep(3600)
        else:
            await send({"type": "websocket.send", "text": event["text"]})
    print(event["type"], event.get("code"), flush=True)


async def page(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["path"] == "/never":
        print("begun", flush=True)
        await asyncio.sleep(3600)
    if scope["path"] == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.sleep(3600)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.05)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def upload(scope: dict[str, Any], receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        event = await receive()
        size, more = size + len(event["body"]), event.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def download(scope: dict[str, Any], receive: Any, send: Any) -> None:
    size = int(scope["query_string"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    piece = b"x" * 1024 * 1024
    while size > 0:
        await send({"type": "http.response.body", "body": piece[:size], "more_body": True})
        size -= len(piece)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def on_gevent(url: str, drain_seconds: float) -> None:
    from gevent import monkey

    monkey.patch_all()

    import signal

    from gredis.drivers.gevent import GeventCrossbar
    from thyme import loop
    from thyme.loading import prepare
    from thyme.split.worker.gevent import Worker
    from thyme.supervisor.signals import on_eof, on_signals

    loop.install()
    worker = Worker(prepare(application), GeventCrossbar(url), drain_seconds=drain_seconds)
    on_signals((signal.SIGTERM,), worker.stop)
    on_eof(worker.stop)
    worker.run(lambda: print("ready", flush=True))
    loop.close_shared_loop()


async def on_asyncio(url: str, drain_seconds: float) -> None:
    import signal

    from gredis.drivers.asyncio import AsyncioCrossbar
    from thyme.split.worker.asyncio import AsyncioWorker

    worker = AsyncioWorker(application, AsyncioCrossbar(url), drain_seconds=drain_seconds)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run(lambda: print("ready", flush=True))
    assert "gevent" not in sys.modules


if __name__ == "__main__":
    url, drain_seconds = sys.argv[2], float(sys.argv[3])
    if sys.argv[1] == "gevent":
        on_gevent(url, drain_seconds)
    else:
        asyncio.run(on_asyncio(url, drain_seconds))
