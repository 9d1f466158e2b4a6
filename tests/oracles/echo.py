"""What Autobahn's fuzzing client talks to: every message comes back as it was."""

from __future__ import annotations

from thyme.asgi import Receive, Scope, Send


def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Echo texts and bytes."""
    if scope["type"] != "websocket":
        send({"type": "http.response.start", "status": 404})
        send({"type": "http.response.body"})
        return
    receive()
    send({"type": "websocket.accept"})
    while (event := receive())["type"] == "websocket.receive":
        send({"type": "websocket.send", "text": event["text"], "bytes": event["bytes"]})
