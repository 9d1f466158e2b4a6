"""People at the chat, as browsers would be: they log in, open a WebSocket, speak and listen."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from typing import Any

import websocket

SECONDS = 20.0  # for anything to happen
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


def log_in(url: str, name: str, password: str) -> str:
    """Log in as a browser does; return the cookies that it sends from then on."""
    jar = CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    address = f"{url}/accounts/login/"
    with browser.open(address, timeout=SECONDS) as page:
        token = TOKEN.search(page.read().decode())[1]
    form = {"csrfmiddlewaretoken": token, "username": name, "password": password, "next": "/"}
    with browser.open(address, urllib.parse.urlencode(form).encode(), SECONDS) as page:
        if page.url != f"{url}/":
            raise AssertionError(f"{name} could not log in: {page.url}")
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)


class Visitor:
    """One page of the chat. `hear()` returns the next frame; `ask()` sends one and returns that."""

    def __init__(self, url: str, cookie: str) -> None:
        self.socket = websocket.create_connection(
            url.replace("http", "ws", 1) + "/chat/stream/",
            cookie=cookie,
            origin=url,
            timeout=SECONDS,
        )

    def say(self, command: str, room: int, **more: Any) -> None:
        self.socket.send(json.dumps({"command": command, "room": room, **more}))

    def hear(self) -> dict[str, Any]:
        return json.loads(self.socket.recv())

    def ask(self, command: str, room: int, **more: Any) -> dict[str, Any]:
        self.say(command, room, **more)
        return self.hear()

    def closed(self) -> int:
        """Wait until the server closes the WebSocket; return the close code."""
        while True:
            opcode, content = self.socket.recv_data(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                self.socket.shutdown()
                return int.from_bytes(content[:2], "big")

    def close(self) -> None:
        self.socket.close(timeout=SECONDS)
