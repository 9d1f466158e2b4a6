"""Counters of a server, kept as plain integers.

Counting costs one addition per event, and nothing while the server is idle: each connection keeps
its own bytes and messages, which are added up when the counters are read or the connection ends.

A new counter is one field here and the line that increments it. Read next: `server/status.py`,
which turns the counters into Prometheus metrics and serves them.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ServerCounters:
    """Counts since the server was created. Each field is a metric; its metadata has the help."""

    connections: int = field(default=0, metadata={"help": "Connections accepted"})
    refused: int = field(
        default=0, metadata={"help": "Connections answered with 503 because of the limit"}
    )
    requests: int = field(default=0, metadata={"help": "HTTP requests served"})
    errors: int = field(default=0, metadata={"help": "HTTP requests answered with 5xx"})
    bad_requests: int = field(default=0, metadata={"help": "Invalid HTTP requests"})
    websockets: int = field(default=0, metadata={"help": "WebSocket handshakes"})
    slow_clients: int = field(default=0, metadata={"help": "WebSockets closed with 1013"})
    messages_received: int = field(default=0, metadata={"help": "WebSocket messages received"})
    messages_sent: int = field(default=0, metadata={"help": "WebSocket messages sent"})
    bytes_received: int = field(default=0, metadata={"help": "Bytes received"})
    bytes_sent: int = field(default=0, metadata={"help": "Bytes sent"})
