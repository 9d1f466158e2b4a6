"""Bytes to events and back: HTTP/1.1 and WebSocket, without I/O."""
