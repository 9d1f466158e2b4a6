"""TLS under a `Stream`: a socket that encrypts, with the few methods that a plain one needs.

The standard library's `SSLObject` turns bytes into bytes; the socket stays the ordinary
non-blocking one, so all waiting remains `server/stream.py`'s, and `BlockingIOError` means what it
means there. HTTP/2 is not offered: ALPN says http/1.1.

Sources: RFC 8446 (TLS 1.3), RFC 5246 (1.2, the oldest spoken), RFC 7301 (ALPN).
"""

from __future__ import annotations

import contextlib
import socket
import ssl

from thyme.errors import CertificateUnusable

RECORD_BYTES = 16 * 1024
"""Encrypted at a time: the most that one record carries (RFC 8446 5.1)."""


def server_context(certificate: str, private_key: str | None = None) -> ssl.SSLContext:
    """A context for servers. Both are PEM files; the first may hold the key, too.

    Raises `CertificateUnusable`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, private_key)
    except OSError as error:
        reason = error.strerror or error
        raise CertificateUnusable(f"cannot use the certificate {certificate}: {reason}") from error
    return context


class EncryptedSocket:
    """A connected non-blocking socket, seen through TLS, server's side."""

    __slots__ = ("_incoming", "_outgoing", "_owed", "_ragged", "_socket", "_tls")

    def __init__(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = connected
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._owed = 0  # bytes of the caller's that are encrypted, but not all sent
        self._ragged = b""  # encrypted bytes that the kernel has not taken yet

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def handshake(self) -> bool:
        """Go on with the handshake; False when the peer has to send more first.

        Raises `BlockingIOError` when nothing has come, another `OSError` when it cannot succeed.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            self._fetch()
            return False
        finally:
            with contextlib.suppress(OSError):
                self._flush()  # an alert, which tells the peer why
        return True

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; as many as are here, so that nothing is left unseen in a buffer."""
        pieces: list[bytes] = []
        missing, fetched = size, False
        while missing:
            try:
                piece = self._tls.read(missing)
            except ssl.SSLWantReadError:
                if pieces:
                    break
                if fetched:  # a part of a record, or records that are none of the caller's
                    raise BlockingIOError from None
                self._fetch()
                fetched = True
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                piece = b""
            if not piece:
                if pieces:  # RFC 8446 6.1: nothing follows a close_notify; so wake the next wait
                    with contextlib.suppress(OSError):
                        self._socket.shutdown(socket.SHUT_RD)
                break
            pieces.append(piece)
            missing -= len(piece)
        if self._outgoing.pending:  # our part of a change of keys (RFC 8446 4.6.3)
            self._flush()
        return b"".join(pieces)

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes were sent, at least one. Raises `BlockingIOError` when none could be.

        Call again with the same bytes (more may follow them), as with OpenSSL.
        """
        view, sent = memoryview(data), 0
        while sent < len(view):
            if not self._owed:
                self._owed = self._tls.write(view[sent : sent + RECORD_BYTES])
            if not self._flush():
                break
            sent += self._owed
            self._owed = 0
        if not sent and len(view):
            raise BlockingIOError
        return sent

    def shutdown(self, how: int) -> None:
        """End our side: RFC 8446 6.1, "close_notify", then TCP's own end."""
        self._say_goodbye()
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the socket, with a close_notify if that can go out at once."""
        with contextlib.suppress(OSError):
            self._say_goodbye()
        self._socket.close()

    def _say_goodbye(self) -> None:
        if not self._owed:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        self._flush()

    def _fetch(self) -> None:
        """Take encrypted bytes from the socket. Raises `BlockingIOError` when there are none."""
        if encrypted := self._socket.recv(2 * RECORD_BYTES):
            self._incoming.write(encrypted)
        else:
            self._incoming.write_eof()

    def _flush(self) -> bool:
        """Send what is encrypted; whether all of it could be."""
        self._ragged += self._outgoing.read()
        while self._ragged:
            try:
                sent = self._socket.send(self._ragged)
            except BlockingIOError:
                return False
            self._ragged = self._ragged[sent:]
        return True
