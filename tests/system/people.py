"""People of the system tests: who logs in as a browser does, and what their pages hear and say."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from http.client import HTTPResponse
from http.cookiejar import CookieJar
from typing import Any

import websocket

from tests.system.children import DEADLINE

TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')
ROOM = re.compile(r'data-room="(\d+)"')


class Browser:
    """Pages over HTTP, with cookies; nobody is logged in at first."""

    def __init__(self) -> None:
        self.jar = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def get(self, url: str) -> tuple[HTTPResponse, str]:
        with self._opener.open(url, timeout=DEADLINE) as response:
            return response, response.read().decode()

    def post(self, url: str, *, page: str = "", **form: str) -> tuple[HTTPResponse, str]:
        """Send a form of the page at `page` (or at `url` itself), with that page's token."""
        token = TOKEN.search(self.get(page or url)[1])[1]
        fields = urllib.parse.urlencode({"csrfmiddlewaretoken": token, **form}).encode()
        with self._opener.open(url, fields, timeout=DEADLINE) as response:
            return response, response.read().decode()

    def log_in(self, url: str, name: str, password: str) -> None:
        address = f"{url}/accounts/login/"
        response, _ = self.post(address, username=name, password=password, next="/")
        assert urllib.parse.urlsplit(response.url).path == "/", f"{name} could not log in"

    @property
    def cookie(self) -> str:
        """What a browser sends along: cookies do not depend on the port."""
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.jar)


class Page:
    """One page's WebSocket, through websocket-client.

    Raises websocket.WebSocketBadStatusException when the handshake is refused.
    """

    def __init__(self, url: str, cookie: str | None, origin: str | None = None) -> None:
        self.socket = websocket.create_connection(
            url.replace("http", "ws", 1) + "/chat/stream/",
            cookie=cookie,
            origin=origin or url,
            timeout=DEADLINE,
        )

    def say(self, command: str, room: int, **more: Any) -> None:
        self.socket.send(json.dumps({"command": command, "room": room, **more}))

    def hear(self) -> dict[str, Any]:
        """The next frame."""
        return json.loads(self.socket.recv())

    def ask(self, command: str, room: int, **more: Any) -> dict[str, Any]:
        self.say(command, room, **more)
        return self.hear()

    def hears_nothing(self) -> bool:
        """Whether nothing was under way: the next frame answers a question asked only now."""
        self.socket.send("?")
        return self.hear() == {"error": "FRAME_NOT_JSON"}

    def close(self) -> None:
        """Close as a browser does, and see the server agree."""
        self.socket.close(timeout=DEADLINE)


def said(room: int, name: str, message: str) -> dict[str, Any]:
    return {"msg_type": 0, "room": str(room), "username": name, "message": message}


def came(room: int, name: str) -> dict[str, Any]:
    return {"msg_type": 4, "room": str(room), "username": name}


def left(room: int, name: str) -> dict[str, Any]:
    return {"msg_type": 5, "room": str(room), "username": name}
