"""Minimal applications without Django, to measure the servers themselves.

At /flood they send endlessly, 64 KiB at a time.
"""

import asyncio

LONG = "x" * 65536


def esque(scope, receive, send):
    """For thyme: an ordinary function."""
    if scope["type"] == "websocket":
        receive()
        send({"type": "websocket.accept"})
        while scope["path"] == "/flood":
            send({"type": "websocket.send", "text": LONG})
        while (event := receive())["type"] == "websocket.receive":
            send({"type": "websocket.send", "text": event["text"]})
        return
    send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    send({"type": "http.response.body", "body": b"hello"})


async def asgi(scope, receive, send):
    """For any ASGI server."""
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while scope["path"] == "/flood":
            await send({"type": "websocket.send", "text": LONG})
            await asyncio.sleep(0)  # without this, Daphne does nothing else
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        return
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})
