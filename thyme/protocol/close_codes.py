"""WebSocket close codes: the numbers that a close frame and `websocket.disconnect` carry.

RFC 6455 7.4.1 defines 1000 to 1011; 1012 and 1013 are from IANA's registry of WebSocket close
codes. Every part of thyme that closes a WebSocket names its code from here.

Which code an ending has is decided in `protocol/websocket.py`, `server/websocket_cycle.py` and
`split/relay/`.
"""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """A close code; an `int`, so that it can stand in an ASGI event as it is."""

    NORMAL = 1000
    """The purpose for which the WebSocket was opened has been fulfilled; ASGI's default."""
    GOING_AWAY = 1001
    """The server is shutting down, or the browser has left the page."""
    PROTOCOL_ERROR = 1002
    """The peer broke RFC 6455."""
    ABNORMAL = 1006
    """The connection ended without a close frame. For applications only, never sent."""
    INVALID_DATA = 1007
    """A text message is not UTF-8."""
    POLICY_VIOLATION = 1008
    """A message violates the application's policy, and no other code fits."""
    MESSAGE_TOO_BIG = 1009
    """A message exceeds `Config.message_bytes`."""
    INTERNAL_ERROR = 1011
    """The application failed."""
    SERVICE_RESTART = 1012
    """The process that serves this WebSocket is restarting or has died; clients reconnect."""
    TRY_AGAIN_LATER = 1013
    """The server is overloaded, or the peer does not read fast enough."""
