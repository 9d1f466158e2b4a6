"""The requests that the server itself refuses, and how every refusal is sent.

A refusal is a status, a reason that the peer can read, and any header fields: this is the place for
a Retry-After with a 503. Parsers add those for malformed requests: `protocol/head_rules.py` for
HTTP, `protocol/websocket.py` for the opening handshake of a WebSocket.

Read next: `protocol/http.py`, where `Refusal` is defined.
"""

from __future__ import annotations

from thyme.errors import Disconnected
from thyme.protocol.http import HTTPProtocol, Refusal
from thyme.server.stream import RequestStream

# RFC 9110 15.6.4: 503, "temporary overload or scheduled maintenance".
TOO_MANY_CONNECTIONS = Refusal(503, "too many connections")
SHUTTING_DOWN = Refusal(503, "server is shutting down")

# RFC 9110 15.6.1. The log has the reason; the peer does not get it.
APPLICATION_FAILED = Refusal(500, "the application failed")

# ASGI, websocket.close: "If this is sent before the socket is accepted, the server must close the
# connection with a HTTP 403 error code".
WEBSOCKET_DENIED = Refusal(403, "the application refused this WebSocket")


def head_timed_out(seconds: float | None) -> Refusal:
    """Return the `Refusal` for a head that took more than `seconds`."""
    # RFC 9110 15.5.9: 408 "did not receive a complete request message within the time that it was
    # prepared to wait".
    return Refusal(408, f"the request head took more than {seconds} s")


def send_refusal(stream: RequestStream, protocol: HTTPProtocol, refusal: Refusal) -> None:
    """Write the response to a refused request. No-op if the peer is gone.

    Nothing of another response may have been written; afterwards the connection is to be closed.
    """
    try:
        stream.write(protocol.refuse(refusal))
    except Disconnected:
        pass
