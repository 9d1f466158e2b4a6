"""The null server: it sends the answers that the benchmark expects, and does nothing else.

It has one epoll loop and prepared answers, and counts frames by their length without parsing them.
Its results are the limits of the generator, the kernel and (in the cases "wait") PostgreSQL on this
machine; a server with similar results is limited by them.

    python -m bench.null PORT
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
from collections import defaultdict

from bench.generator import TEXT, masked, unmasked

PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
FRAME_BYTES = len(masked(TEXT))
ANSWER = unmasked(TEXT)
POOL = 100
"""Connections to PostgreSQL, as many as in the application's pool."""


class Null:
    """The server's state: a callback for each socket, and the members of each room."""

    def __init__(self, port: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.rooms: dict[bytes, list[socket.socket]] = defaultdict(list)
        self.unsent: dict[socket.socket, bytes] = {}
        self.idle: list = []  # connections to PostgreSQL
        listener = socket.create_server(("127.0.0.1", port), backlog=2048)
        self.selector.register(listener, selectors.EVENT_READ, lambda: self.accept(listener))

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                key.data()

    def accept(self, listener: socket.socket) -> None:
        connected, _ = listener.accept()
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.when_readable(connected, lambda: self.first(connected))

    def when_readable(self, connected, call) -> None:
        if connected in self.selector.get_map():
            self.selector.modify(connected, selectors.EVENT_READ, call)
        else:
            self.selector.register(connected, selectors.EVENT_READ, call)

    def read(self, connected: socket.socket) -> bytes:
        try:
            data = connected.recv(65536)
        except OSError:
            data = b""
        if not data or data[0] == 0x88:  # RFC 6455 5.5.1: a close frame
            self.selector.unregister(connected)
            for members in self.rooms.values():
                if connected in members:
                    members.remove(connected)
            connected.close()
            return b""
        return data

    def first(self, connected: socket.socket) -> None:
        """Choose what to do on a connection by its first request."""
        head = self.read(connected)
        if b"Upgrade" not in head:
            if head:
                connected.send(PAGE)
            return
        connected.send(SWITCH)
        path = head.split(b" ", 2)[1]
        if path.startswith(b"/room"):
            self.rooms[path].append(connected)
            self.when_readable(connected, lambda: self.room(connected, self.rooms[path]))
        elif path.startswith(b"/wait"):
            self.when_readable(connected, lambda: self.wait(connected))
        else:
            self.when_readable(connected, lambda: self.echo(connected))

    def echo(self, connected: socket.socket) -> None:
        if data := self.read(connected):
            connected.send(ANSWER * (len(data) // FRAME_BYTES))

    def room(self, connected: socket.socket, members: list[socket.socket]) -> None:
        data = self.read(connected)
        line = ANSWER * (len(data) // FRAME_BYTES)
        for member in members:
            member.sendall(line)

    def wait(self, connected: socket.socket) -> None:
        """Run a query of 50 ms with psycopg2's asynchronous connections on this loop."""
        if not self.read(connected):
            return
        if not self.idle:
            self.connect()
        postgres = self.idle.pop()
        cursor = postgres.cursor()
        cursor.execute("SELECT pg_sleep(0.05)")
        self.when_readable(postgres, lambda: self.waited(postgres, cursor, connected))

    def waited(self, postgres, cursor, connected: socket.socket) -> None:
        if postgres.poll() == 0:  # psycopg2.extensions.POLL_OK
            self.idle.append(postgres)
            connected.send(ANSWER)

    def connect(self) -> None:
        import psycopg2
        from psycopg2.extras import wait_select

        for _ in range(POOL):
            postgres = psycopg2.connect(os.environ["DATABASE_URL"], async_=1)
            wait_select(postgres)
            self.idle.append(postgres)


if __name__ == "__main__":
    Null(int(sys.argv[1])).run()
