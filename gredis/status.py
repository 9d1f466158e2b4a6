"""Status: the inboxes, queues and groups of a crossbar, for people and for Prometheus.

`read(url)` returns the figures, and `table(figures)` formats them; the command is
`python -m gredis status --url …`. It makes one call to each host. For that it registers as a
short-lived process of its own, which is left out of the figures. Works with processes of any
driver.

Read next: `__main__.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from gredis.client import Urls
from gredis.drivers.gevent import GeventCrossbar

_COUNTERS = {
    "received": "Messages received by this process",
    "delivered": "Deliveries to receivers of this process",
    "dropped": "Messages received for which this process has no receiver",
    "lost": "Messages lost because they were sent while the inbox of this process was full",
}


class MetricFamily(NamedTuple):
    """A metric for Prometheus: its values by their labels."""

    name: str
    type: str  # "counter" or "gauge"
    help: str
    samples: Mapping[str, float]


@dataclass(frozen=True)
class InboxFigures:
    """One process.

    `present`: whether it is connected. `kept`: messages in its inbox. `age`: milliseconds since the
    oldest was sent. `total` and `dropped`: messages since it started.

    Up to `session.TRIM_AFTER` of the kept messages have been read already, because they are freed
    in batches. So a few old messages of a quiet process mean nothing; more, and growing, mean that
    it does not read.
    """

    name: str
    present: bool
    kept: int
    age: int
    total: int
    dropped: int


@dataclass(frozen=True)
class QueueFigures:
    """One queue.

    `consumers`: processes. `room`: messages that they have room for. `waiting`: messages. `age`:
    milliseconds since the oldest was sent.
    """

    name: str
    consumers: int
    room: int
    waiting: int
    age: int


@dataclass(frozen=True)
class GroupFigures:
    """One group, and the number of processes with members."""

    name: str
    processes: int


@dataclass
class Figures:
    """The figures of all hosts."""

    inboxes: list[InboxFigures] = field(default_factory=list)
    queues: list[QueueFigures] = field(default_factory=list)
    groups: list[GroupFigures] = field(default_factory=list)


def read(url: Urls, prefix: str = "gredis", *, timeout: float = 5.0) -> Figures:
    """Return the figures at `url`. Raises `Unreachable`."""
    crossbar = GeventCrossbar(url, prefix, timeout=timeout)
    try:
        return read_from(crossbar)
    finally:
        crossbar.close()


def read_from(crossbar: GeventCrossbar) -> Figures:
    """Return the figures by means of an existing crossbar, without its own inbox."""
    figures = Figures()
    for reply in crossbar.status():
        inboxes, queues, groups = reply.get()
        for name, present, *numbers in inboxes:
            if name.decode() != crossbar.inbox:
                figures.inboxes.append(InboxFigures(name.decode(), bool(present), *numbers))
        figures.queues += [QueueFigures(row[0].decode(), *row[1:]) for row in queues]
        figures.groups += [GroupFigures(row[0].decode(), *row[1:]) for row in groups]
    return figures


def metrics(crossbar: GeventCrossbar) -> list[MetricFamily]:
    """Return the counters of this process, and the lengths of all queues.

    The latter are the same in every process. Raises `Unreachable`.
    """
    counters = crossbar.router.counters
    found = [
        MetricFamily(
            f"gredis_messages_{name}_total", "counter", text, {"": getattr(counters, name)}
        )
        for name, text in _COUNTERS.items()
    ]
    waiting = {f'queue="{each.name}"': each.waiting for each in read_from(crossbar).queues}
    return [
        *found,
        MetricFamily("gredis_queue_waiting", "gauge", "Messages waiting in a queue", waiting),
    ]


def table(figures: Figures) -> str:
    """Return the figures as text."""
    inboxes = [
        (each.name, "yes" if each.present else "no", each.kept, seconds(each.age), each.total,
         each.dropped)
        for each in figures.inboxes
    ]  # fmt: skip
    queues = [
        (each.name, each.consumers, each.room, each.waiting, seconds(each.age))
        for each in sorted(figures.queues, key=attrgetter("name"))
    ]
    groups = [
        (each.name, each.processes) for each in sorted(figures.groups, key=attrgetter("name"))
    ]
    return "\n\n".join([
        columns(("inbox", "connected", "kept", "oldest", "total", "dropped"), inboxes),
        columns(("queue", "consumers", "room", "waiting", "oldest"), queues),
        columns(("group", "processes"), groups),
    ])  # fmt: skip


def seconds(milliseconds: int) -> str:
    """Return an age in seconds, "-" for none."""
    return f"{milliseconds / 1000:.1f} s" if milliseconds else "-"


def columns(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Return rows under a head: the first column aligned left, the others right."""
    lines = [head, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
