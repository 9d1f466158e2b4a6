"""What a server counts of itself, and how Prometheus is told.

Counting costs an addition where something happens and nothing while nothing does: bytes and
messages are kept by each connection and added up when somebody asks, or when it ends. The time
the loop takes is measured by whoever asks, too.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, text format 0.0.4.
Read next: `status.py`, which serves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class Tally:
    """Counts since the server was made; each field is a metric, described in its metadata."""

    connections: int = field(default=0, metadata={"help": "Connections accepted"})
    refused: int = field(default=0, metadata={"help": "Connections answered with 503: too many"})
    requests: int = field(default=0, metadata={"help": "HTTP requests served"})
    errors: int = field(default=0, metadata={"help": "HTTP requests answered with 5xx"})
    bad_requests: int = field(default=0, metadata={"help": "What came and was no good request"})
    websockets: int = field(default=0, metadata={"help": "WebSocket handshakes"})
    slow_clients: int = field(default=0, metadata={"help": "WebSockets closed with 1013"})
    messages_received: int = field(default=0, metadata={"help": "WebSocket messages from peers"})
    messages_sent: int = field(default=0, metadata={"help": "WebSocket messages to peers"})
    bytes_received: int = field(default=0, metadata={"help": "Bytes from peers"})
    bytes_sent: int = field(default=0, metadata={"help": "Bytes to peers"})


def exposition(tally: Tally, gauges: dict[str, tuple[str, float]]) -> str:
    """The text for Prometheus. `gauges`: name to (what it is, value)."""
    lines = []
    for counter in fields(tally):
        name = f"thyme_{counter.name}_total"
        lines += _metric(name, "counter", counter.metadata["help"], getattr(tally, counter.name))
    for name, (meaning, value) in gauges.items():
        lines += _metric(f"thyme_{name}", "gauge", meaning, value)
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, meaning: str, value: float) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", f"{name} {value}"]
