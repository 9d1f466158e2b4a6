"""The smallest applications there are, without Django: what the servers themselves cost."""


def esque(scope, receive, send):
    """For thyme: an ordinary function."""
    if scope["type"] == "websocket":
        receive()
        send({"type": "websocket.accept"})
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
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        return
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})
