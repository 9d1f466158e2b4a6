"""Where a server listens: the forms of a bind, and the listening socket for each.

    HOST:PORT, :PORT     TCP; a host is an address or a name, IPv6 in brackets; no host: all IPv4
    unix:PATH            a unix socket; a stale file is replaced, one that is in use is not
    fd://N               an inherited listening socket: from systemd, or `cli/processes.py`

Accepting is left to `server/server.py`. Taught in notebooks/01_sockets.ipynb.
Read next: `server/server.py`.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from gevent import monkey
from gevent.socket import socket as GeventSocket

from thyme.errors import BadBind

_TCP = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\[\]:/]*)):(?P<port>[0-9]{1,5})")
_UNIX, DESCRIPTOR = "unix:", "fd://"

ALL_IPV4 = "0.0.0.0"  # noqa: S104 - what ":8000" means
HIGHEST_PORT = 65535


def validate_bind(text: str) -> str:
    """Return `text` if it has one of the three forms, else raise `BadBind`."""
    if text.startswith(_UNIX) and len(text) > len(_UNIX):
        return text
    if text.startswith(DESCRIPTOR) and text.removeprefix(DESCRIPTOR).isdecimal():
        return text
    match = _TCP.fullmatch(text)
    if match and int(match["port"]) <= HIGHEST_PORT:
        return text
    raise BadBind(f"got {text!r}, expected HOST:PORT, [IPv6]:PORT, unix:PATH or fd://N")


def tcp_bind(host: str, port: int) -> str:
    """Return the bind of an address. RFC 3986 3.2.2: IPv6 addresses stand in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_listener(bind: str, backlog: int) -> Any:
    """Return a gevent socket that listens on `bind`. Raises `OSError` or `BadBind`."""
    if bind.startswith(DESCRIPTOR):
        return _inherited(int(bind.removeprefix(DESCRIPTOR)))
    if bind.startswith(_UNIX):
        return _on_unix(bind.removeprefix(_UNIX), backlog)
    match = _TCP.fullmatch(validate_bind(bind))
    host = match and (match["six"] or match["host"])
    return open_tcp_listener(host or ALL_IPV4, int(match["port"]) if match else 0, backlog)


def listener_url(bound: Any, *, secure: bool = False) -> str:
    """Return the URL of a listening socket, for people: http://…, https://…, or unix:PATH."""
    if bound.family == socket.AF_UNIX:
        return f"{_UNIX}{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"{'https' if secure else 'http'}://{tcp_bind(host, port)}"


def open_tcp_listener(host: str, port: int, backlog: int) -> Any:
    """Return a gevent socket that listens on (host, port). Raises `OSError`.

    `host` is an address, or a name whose first address is used. The lookup may block the process:
    no connection is served yet, and gevent's own lookup would start a thread.
    """
    look_up = monkey.get_original("socket", "getaddrinfo")
    family, kind, protocol, _, address = look_up(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    opened = GeventSocket(family, kind, protocol)
    # A server that restarts must not wait until the connections of its predecessor time out.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _bound(opened, address, backlog)


def _bound(opened: Any, address: Any, backlog: int) -> Any:
    try:
        opened.bind(address)
        opened.listen(backlog)
    except BaseException:
        opened.close()
        raise
    return opened


def _inherited(descriptor: int) -> Any:
    # A duplicate, because the process that passed the descriptor may go on using it.
    return GeventSocket(fileno=os.dup(descriptor))


def _on_unix(path: str, backlog: int) -> Any:
    _remove_stale(path)
    return _bound(GeventSocket(socket.AF_UNIX, socket.SOCK_STREAM), path, backlog)


def remove_socket_files(binds: Iterable[str]) -> None:
    """Remove the socket files of `binds` that are unix sockets."""
    for bind in binds:
        if bind.startswith(_UNIX):
            with suppress(FileNotFoundError):
                os.unlink(bind.removeprefix(_UNIX))


def _remove_stale(path: str) -> None:
    """Remove the socket file of a server that has died; leave any other file alone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    plain = monkey.get_original("socket", "socket")
    with plain(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
