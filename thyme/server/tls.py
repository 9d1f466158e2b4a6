"""TLS below a `Stream`: a socket that encrypts, with the few methods that a `Stream` uses.

The standard library's `SSLObject` turns bytes into bytes. The socket below stays an ordinary
non-blocking one, so all waiting is left to `server/stream.py`, and `BlockingIOError` means the same
as for a plain socket.

Sources: RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2, the oldest version accepted), RFC 7301 (ALPN).
Read next: `server/stream.py`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

from thyme.errors import CertificateUnusable

ALPN_PROTOCOLS = ["http/1.1"]
"""Offered to the peer (RFC 7301); `choose_protocol()` in `server/connection.py` speaks them."""

RECORD_BYTES = 16 * 1024
"""Encrypted at a time: the most that one record can carry (RFC 8446 5.1)."""


def server_context(certificate: str, private_key: str | None = None) -> ssl.SSLContext:
    """Return a server's context for two PEM files; the first may contain the key, too.

    Raises `CertificateUnusable`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    try:
        context.load_cert_chain(certificate, private_key)
    except OSError as error:
        reason = error.strerror or error
        raise CertificateUnusable(f"cannot load the certificate {certificate}: {reason}") from error
    return context


class EncryptedSocket:
    """The server's side of TLS on a connected non-blocking socket."""

    __slots__ = ("_encrypted", "_incoming", "_outgoing", "_socket", "_tls", "_unsent")

    def __init__(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = connected
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._encrypted = 0  # bytes of the caller that are encrypted, but not all sent
        self._unsent = b""  # encrypted bytes that the kernel has not taken

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def handshake(self) -> bool:
        """Continue the handshake; return False if the peer has to send more first.

        Raises `BlockingIOError` if nothing has arrived, another `OSError` if it cannot succeed.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            self._receive()
            return False
        finally:
            with contextlib.suppress(OSError):
                self._flush()  # an alert, if it has failed
        return True

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes, all that have arrived: none may be left in a buffer unseen."""
        pieces: list[bytes] = []
        missing, received = size, False
        while missing:
            try:
                piece = self._tls.read(missing)
            except ssl.SSLWantReadError:
                if pieces:
                    break
                if received:  # a part of a record, or only records without data
                    raise BlockingIOError from None
                self._receive()
                received = True
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                piece = b""
            if not piece:
                if pieces:  # RFC 8446 6.1: nothing follows a close_notify; end the next wait
                    with contextlib.suppress(OSError):
                        self._socket.shutdown(socket.SHUT_RD)
                break
            pieces.append(piece)
            missing -= len(piece)
        if self._outgoing.pending:  # our part of a key update (RFC 8446 4.6.3)
            self._flush()
        return b"".join(pieces)

    def send(self, data: bytes | memoryview) -> int:
        """Return how many bytes were sent, at least one. Raises `BlockingIOError` if none were.

        The rest must be passed again, with or without more bytes behind it, as with OpenSSL.
        """
        view, sent = memoryview(data), 0
        while sent < len(view):
            if not self._encrypted:
                self._encrypted = self._tls.write(view[sent : sent + RECORD_BYTES])
            if not self._flush():
                break
            sent += self._encrypted
            self._encrypted = 0
        if not sent and len(view):
            raise BlockingIOError
        return sent

    def shutdown(self, how: int) -> None:
        """End our side: close_notify (RFC 8446 6.1), then TCP's half-close."""
        self._send_close_notify()
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the socket, with a close_notify if that can be sent without blocking."""
        with contextlib.suppress(OSError):
            self._send_close_notify()
        self._socket.close()

    def _send_close_notify(self) -> None:
        if not self._encrypted:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        self._flush()

    def _receive(self) -> None:
        """Receive encrypted bytes from the socket. Raises `BlockingIOError` if there are none."""
        if encrypted := self._socket.recv(2 * RECORD_BYTES):
            self._incoming.write(encrypted)
        else:
            self._incoming.write_eof()

    def _flush(self) -> bool:
        """Send what is encrypted; return True if all of it was sent."""
        self._unsent += self._outgoing.read()
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]
        return True
