"""TLS: the standard library's client against our server."""

from __future__ import annotations

import datetime
import socket as plain
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gevent import socket
from gevent import ssl as gevent_ssl

from tests.thyme.serving import (
    DEADLINE,
    Browser,
    Peer,
    body,
    echo,
    eventually,
    hello,
    serving,
    start,
)
from thyme.asgi import Receive, Scope, Send
from thyme.config import Config
from thyme.errors import CertificateUnusable
from thyme.server.server import Server

CLOSING = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def self_signed(path: Path) -> str:
    """A PEM file with a key and its certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(pem))
    return str(path)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    return self_signed(tmp_path_factory.mktemp("tls") / "both.pem")


def client_context(certificate: str) -> Any:
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


class TLSPeer(Peer):
    def __init__(self, server: Server, context: Any, data: bytes = b"") -> None:
        raw = socket.create_connection(server.address)
        raw.settimeout(DEADLINE)
        self.socket = context.wrap_socket(raw, server_hostname="localhost")
        self.send(data)


def scheme(scope: Scope, receive: Receive, send: Send) -> None:
    send(start())
    send(body(scope["scheme"].encode()))


def test_https_is_spoken_with_a_certificate_and_ends_with_a_close_notify(certificate: str) -> None:
    with serving(scheme, certificate=certificate) as server:
        with TLSPeer(server, client_context(certificate), CLOSING) as peer:
            assert peer.socket.version() == "TLSv1.3"
            assert peer.socket.selected_alpn_protocol() == "http/1.1"
            assert peer.read_all().endswith(b"\r\n\r\nhttps")
        assert server.urls[0].startswith("https://127.0.0.1:")


def test_tls_1_2_is_spoken_and_1_1_is_not(certificate: str) -> None:
    with serving(scheme, certificate=certificate) as server:
        context = client_context(certificate)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with TLSPeer(server, context, CLOSING) as peer:
            assert peer.socket.version() == "TLSv1.2"
            assert peer.read_all().endswith(b"https")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError):
            TLSPeer(server, context)


@pytest.mark.parametrize("pause", [False, True])
def test_large_bodies_pass_both_ways_whatever_the_buffers_do(certificate: str, pause: bool) -> None:
    content = bytes(range(256)) * 16384
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with serving(echo, certificate=certificate) as server:
        with TLSPeer(server, client_context(certificate)) as peer:
            sender = gevent.spawn(peer.send, head % len(content) + content)
            sender.join()
            if pause:  # until the server waits for us to read
                eventually(lambda: server.unsent)
            assert peer.read_all().endswith(b"\r\n\r\n" + content)


def test_websockets_pass(certificate: str) -> None:
    class TLSBrowser(Browser):
        def send(self, data: bytes) -> None:
            if not isinstance(self.socket, gevent_ssl.SSLSocket):
                context = client_context(certificate)
                self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
            super().send(data)

    with serving(echo, certificate=certificate) as server, TLSBrowser(server) as browser:
        for text in ("a", "x" * 200_000):
            browser.say(text)
            assert browser.hear() == text
        browser.close()
        assert browser.closed()[0] == 1000


def test_a_handshake_that_takes_too_long_is_ended(certificate: str) -> None:
    with serving(scheme, certificate=certificate, head_seconds=0.05) as server:
        with Peer(server, b"\x16\x03\x01") as peer:
            assert peer.read_all() == b""


def test_plain_http_is_no_tls(certificate: str) -> None:
    with serving(scheme, certificate=certificate) as server, Peer(server, CLOSING) as peer:
        assert b"HTTP/1.1" not in peer.read_all()
        eventually(lambda: not server.open_connections)


def test_a_stop_ends_a_handshake_in_progress(certificate: str) -> None:
    with serving(scheme, certificate=certificate, drain_seconds=60) as server, Peer(server) as peer:
        eventually(lambda: server.open_connections)
        server.stop()
        assert peer.read_all() == b""


def test_an_unusable_certificate_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "nonsense.pem").write_text("nonsense")
    for name in ("nowhere.pem", "nonsense.pem"):
        with pytest.raises(CertificateUnusable, match=name):
            Server(scheme, Config(certificate=str(tmp_path / name)))


def test_a_reset_in_the_middle_is_a_disconnect(certificate: str) -> None:
    told: list[str] = []

    def application(scope: Scope, receive: Receive, send: Send) -> None:
        receive()
        told.append(receive()["type"])

    with serving(application, certificate=certificate) as server:
        with TLSPeer(server, client_context(certificate), CLOSING) as peer:
            eventually(lambda: server.counters().bytes_received)
            peer.socket.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        eventually(lambda: told == ["http.disconnect"])


@pytest.mark.parametrize("leaves", [False, True], ids=["request", "request and close_notify"])
def test_what_comes_with_the_last_piece_of_a_handshake_is_answered(
    certificate: str, leaves: bool
) -> None:
    """RFC 8446 2: a client may send with its Finished; 6.1: and then it may end its side."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(certificate).wrap_bio(incoming, outgoing, server_hostname="localhost")

    def hear() -> None:
        raw.sendall(outgoing.read())
        incoming.write(raw.recv(65536))

    def until_heard(call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                hear()

    with (
        serving(hello, certificate=certificate) as server,
        socket.create_connection(server.address) as raw,
    ):
        raw.settimeout(DEADLINE)
        until_heard(tls.do_handshake)
        tls.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        if leaves:
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
        assert until_heard(tls.read).startswith(b"HTTP/1.1 200 OK")
        if leaves:
            until_heard(tls.unwrap)
