"""What the tests of the server share: a server in this process, and peers on plain gevent sockets.

Nothing is patched. A peer that waits lets the server run; every wait has a deadline.
"""

from __future__ import annotations

import socket as plain
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import h11
import pytest
from gevent import socket
from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from thyme.asgi import Application, BlockingApplication, Event, Receive, Scope, Send
from thyme.config import Config
from thyme.server import server as server_module
from thyme.server.server import Server
from thyme.server.stream import plain_socket

DEADLINE = 30  # seconds for anything to happen; much more than it takes
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@contextmanager
def serving(application: Application | BlockingApplication, **settings: Any) -> Iterator[Server]:
    """A running server; afterwards all of it is gone."""
    server = Server(application, Config(port=0, **{"drain_seconds": 1, **settings}))
    server.start()
    try:
        with gevent.Timeout(DEADLINE):
            yield server
    finally:
        server.stop(0)
        assert not server.open_connections


class SocketWithSend:
    """A plain socket whose `send` the test decides: how many bytes it takes, or an error."""

    def __init__(self, real: plain.socket, send: Callable[[plain.socket, bytes], int]) -> None:
        self._real, self._send = real, send

    def send(self, data: bytes | memoryview) -> int:
        return self._send(self._real, bytes(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def let_servers_send_by(
    monkeypatch: pytest.MonkeyPatch, send: Callable[[plain.socket, bytes], int]
) -> None:
    """Give the sockets of all servers `send` in place of their own."""
    monkeypatch.setattr(
        server_module, "plain_socket", lambda accepted: SocketWithSend(plain_socket(accepted), send)
    )


def eventually(condition: Callable[[], Any]) -> None:
    """Let others run until `condition` holds."""
    with gevent.Timeout(DEADLINE):
        while not condition():
            gevent.sleep(0.001)


def settled(figure: Callable[[], int]) -> int:
    """The figure once it changes no more: not in twenty turns, in each of which it could have."""
    with gevent.Timeout(DEADLINE):
        seen, turns = figure(), 0
        while turns < 20:
            gevent.sleep(0.005)
            seen, turns = (seen, turns + 1) if figure() == seen else (figure(), 0)
        return seen


class Peer:
    """A raw connection to the server."""

    def __init__(self, server: Server, data: bytes = b"") -> None:
        self.socket = socket.create_connection(server.address)
        self.socket.settimeout(DEADLINE)
        self.send(data)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        if data:
            self.socket.sendall(data)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or what came before the end."""
        data = b""
        while len(data) < size and (more := self.socket.recv(size - len(data))):
            data += more
        return data

    def read_until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end) and (more := self.socket.recv(1)):
            data += more
        return data

    def read_all(self) -> bytes:
        """What comes until the server ends the connection."""
        pieces = []
        while more := self.socket.recv(65536):
            pieces.append(more)
        return b"".join(pieces)

    def reset(self) -> None:
        """End the connection with a TCP RST."""
        self.socket.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


class HTTPPeer(Peer):
    """Reads responses with h11, the oracle."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.oracle = h11.Connection(h11.CLIENT)

    def ask(self, method: str = "GET", target: str = "/", **fields: str) -> None:
        """Send a request without a body."""
        self.send_head(method, target, **fields)
        self.send(self.oracle.send(h11.EndOfMessage()) or b"")

    def send_head(self, method: str = "GET", target: str = "/", **fields: str) -> None:
        if self.oracle.our_state is h11.DONE:
            self.oracle.start_next_cycle()
        headers = [("host", "a"), *((n.replace("_", "-"), v) for n, v in fields.items())]
        head = h11.Request(method=method, target=target, headers=headers)
        self.send(self.oracle.send(head) or b"")

    def next(self) -> Any:
        while (event := self.oracle.next_event()) is h11.NEED_DATA:
            self.oracle.receive_data(self.socket.recv(65536))
        return event

    def answer(self) -> tuple[int, bytes]:
        """The next response: status and body."""
        head, body = self.next(), b""
        assert isinstance(head, h11.Response), head
        while isinstance(event := self.next(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage), event
        return head.status_code, body


class Browser(Peer):
    """A WebSocket client, of websockets' sans-I/O protocol."""

    def __init__(self, server: Server, path: str = "/", **options: Any) -> None:
        super().__init__(server)
        self.protocol = ClientProtocol(parse_uri(f"ws://a{path}"), **options)
        self.protocol.send_request(self.protocol.connect())
        self.flush()
        self.frames: list[Frame] = []
        while self.protocol.state is State.CONNECTING and not self.protocol.handshake_exc:
            self.receive()

    def receive(self) -> None:
        if data := self.socket.recv(65536):
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        self.frames += [e for e in self.protocol.events_received() if isinstance(e, Frame)]

    def flush(self) -> None:
        self.send(b"".join(self.protocol.data_to_send()))

    def say(self, text: str) -> None:
        self.protocol.send_text(text.encode())
        self.flush()

    def next(self) -> Frame:
        while not self.frames:
            self.receive()
        return self.frames.pop(0)

    def hear(self) -> str:
        frame = self.next()
        assert frame.opcode is Opcode.TEXT, frame
        return bytes(frame.data).decode()

    def close(self, code: int = CloseCode.NORMAL_CLOSURE) -> None:
        self.protocol.send_close(code)
        self.flush()

    def closed(self) -> tuple[int | None, str | None]:
        """Wait for the end; the close code and reason that the server gave."""
        while self.protocol.close_rcvd is None:
            self.receive()
        self.flush()
        self.read_all()
        return self.protocol.close_rcvd.code, self.protocol.close_rcvd.reason


# Applications.


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Event:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes = b"", more: bool = False) -> Event:
    return {"type": "http.response.body", "body": content, "more_body": more}


def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading."""
    send(start())
    send(body(b"hello " + scope["path"].encode()))


async def hello_of_a_coroutine(scope: Scope, receive: Any, send: Any) -> None:
    """The same, for ASGI 3."""
    await send(start())
    await send(body(b"hello " + scope["path"].encode()))


def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says again what it is told, over HTTP and WebSocket."""
    if scope["type"] == "http":
        content, more = b"", True
        while more:
            event = receive()
            content += event["body"]
            more = event["more_body"]
        send(start())
        send(body(content))
        return
    receive()
    send({"type": "websocket.accept"})
    while (event := receive())["type"] == "websocket.receive":
        send({"type": "websocket.send", "text": event["text"], "bytes": event["bytes"]})
