"""What a server counts of itself, and how Prometheus is told.

Counting costs an addition where something happens and nothing while nothing does: bytes and
messages are kept by each connection and added up when somebody asks, or when it ends. The time
the loop takes is measured by whoever asks, too.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, text format 0.0.4.
Read next: `server/status.py`, which serves it.
"""

from __future__ import annotations

from collections.abc import Mapping
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


Family = tuple[str, str, str, Mapping[str, float]]
"""A metric as an application tells it: name, "counter" or "gauge", what it is, and its values.

Values go by their labels, as in `{'queue="http"': 3}`; "" where there are none.
"""


def exposition(tally: Tally, gauges: dict[str, tuple[str, float]], more: list[Family]) -> str:
    """The text for Prometheus. `gauges`: name to (what it is, value); `more`: the application's."""
    lines = []
    for counter in fields(tally):
        value = getattr(tally, counter.name)
        name = f"thyme_{counter.name}_total"
        lines += _lines((name, "counter", counter.metadata["help"], {"": value}))
    for name, (meaning, value) in gauges.items():
        lines += _lines((f"thyme_{name}", "gauge", meaning, {"": value}))
    for family in more:
        lines += _lines(family)
    return "\n".join(lines) + "\n"


def added_up(texts: list[str]) -> str:
    """One text from those of several processes: sums, or the largest where a sum says nothing."""
    lines: dict[str, float | None] = {}
    for text in texts:
        for line in text.splitlines():
            name, _, number = line.rpartition(" ")
            if line.startswith("#"):
                lines.setdefault(line, None)
            else:
                before = lines.get(name) or 0
                value = float(number)
                largest = name.partition("{")[0] in _LARGEST
                lines[name] = max(before, value) if largest else before + value
    return "".join(
        f"{name}\n" if value is None else f"{name} {value:.15g}\n" for name, value in lines.items()
    )


_LARGEST = frozenset({"thyme_loop_lag_seconds", "gredis_queue_waiting"})
"""Of each loop; and of the queues that all processes see: neither can be added up."""


def _lines(family: Family) -> list[str]:
    name, kind, meaning, values = family
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    for labels, value in values.items():
        lines.append(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}")
    return lines
