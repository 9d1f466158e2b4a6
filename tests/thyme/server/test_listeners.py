"""Where a server listens: TCP, IPv6, unix sockets, inherited descriptors; several at once."""

from __future__ import annotations

import socket as plain
from pathlib import Path

import pytest
from gevent import socket

from tests.thyme.serving import DEADLINE, eventually, hello, serving
from thyme.asgi import Receive, Scope, Send
from thyme.config import Config
from thyme.errors import BadBind
from thyme.server.listeners import validate_bind
from thyme.server.server import Server

CLOSING = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def ask(family: int, address: object) -> bytes:
    with socket.socket(family) as peer:
        peer.settimeout(DEADLINE)
        peer.connect(address)
        peer.sendall(CLOSING)
        answer = b""
        while more := peer.recv(65536):
            answer += more
        return answer


def port_of(place: str) -> int:
    return int(place.rpartition(":")[2])


def test_several_binds_at_once(tmp_path: Path) -> None:
    path = tmp_path / "thyme.sock"
    with plain.create_server(("127.0.0.1", 0)) as inherited:
        binds = ("127.0.0.1:0", "[::1]:0", f"unix:{path}", f"fd://{inherited.fileno()}")
        with serving(hello, binds=binds) as server:
            four, six, unix, given = server.urls
            assert ask(plain.AF_INET, ("127.0.0.1", port_of(four))).endswith(b"hello /x")
            assert six.startswith("http://[::1]:")
            assert ask(plain.AF_INET6, ("::1", port_of(six))).endswith(b"hello /x")
            assert unix == f"unix:{path}"
            assert ask(plain.AF_UNIX, str(path)).endswith(b"hello /x")
            assert port_of(given) == inherited.getsockname()[1]
            assert ask(plain.AF_INET, inherited.getsockname()).endswith(b"hello /x")
        assert not path.exists()
        with plain.create_connection(inherited.getsockname()):
            pass  # ours to close, not the server's


def test_the_scope_of_a_unix_socket_has_no_client_and_its_path(tmp_path: Path) -> None:
    scopes: list[Scope] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        hello(scope, receive, send)

    path = str(tmp_path / "s")
    with serving(application, binds=(f"unix:{path}",)):
        ask(plain.AF_UNIX, path)
    assert (scopes[0]["client"], scopes[0]["server"]) == (None, (path, None))


def test_a_stale_unix_socket_is_replaced_a_living_one_and_a_file_are_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = plain.socket(plain.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with serving(hello, binds=(f"unix:{path}",)):
        with pytest.raises(OSError, match="in use"):
            Server(hello, Config(binds=(f"unix:{path}",))).start()
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        Server(hello, Config(binds=(f"unix:{path}",))).start()
    assert path.read_text() == "precious"


def test_when_one_bind_fails_none_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with plain.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            Server(hello, Config(binds=(f"unix:{path}", f"127.0.0.1:{port}"))).start()
    with pytest.raises(ConnectionRefusedError):
        ask(plain.AF_UNIX, str(path))


@pytest.mark.parametrize("text", [":80", "localhost:8000", "[::]:1", "unix:/a", "fd://3", "a.b:0"])
def test_good_binds(text: str) -> None:
    assert validate_bind(text) == text


@pytest.mark.parametrize(
    "text", ["", "80", "unix:", "fd://x", "fd://", "::1:80", "a:99999", "[::1]", "http://a:80"]
)
def test_bad_binds(text: str) -> None:
    with pytest.raises(BadBind, match="expected HOST:PORT"):
        validate_bind(text)


def test_servers_that_share_a_socket_share_what_comes() -> None:
    with plain.create_server(("127.0.0.1", 0), backlog=20) as shared:
        binds = (f"fd://{shared.fileno()}",)
        with serving(hello, binds=binds) as one, serving(hello, binds=binds) as other:
            peers = [plain.create_connection(shared.getsockname()) for _ in range(10)]
            eventually(lambda: one.open_connections + other.open_connections == 10)
            assert one.open_connections == other.open_connections
            for peer in peers:
                peer.close()
