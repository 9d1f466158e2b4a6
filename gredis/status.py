"""Looking in: what inboxes, queues and groups there are, and how they do.

`read(url)` gives the figures, `table(figures)` makes them readable; the command is
`python -m gredis status --url …`. It asks once with one call and announces a short-lived process of
its own, which is left out of the table.

Read next: `__main__.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gredis.client import Urls
from gredis.drivers.gevent import GeventCrossbar

MetricFamily = tuple[str, str, str, Mapping[str, float]]
"""A metric: name, "counter" or "gauge", what it is, and its values by their labels."""

_COUNTED = {
    "received": "Messages that came to this process",
    "delivered": "Deliveries to receivers of this process",
    "dropped": "Messages that nobody in this process was meant by",
    "lost": "Messages that were sent while this process's inbox was full",
}


@dataclass(frozen=True)
class InboxFigures:
    """One process: is it there, messages kept, ms the oldest is old, messages ever, dropped ever.

    Up to `session.TRIM_AFTER` of those kept it has read already: they are freed together. So many
    old messages of a quiet process mean nothing; more, and growing, mean that it does not read.
    """

    name: str
    present: bool
    kept: int
    age: int
    ever: int
    dropped: int


@dataclass(frozen=True)
class QueueFigures:
    """One queue: its consumers, their free room, messages waiting, age of the oldest in ms."""

    name: str
    takers: int
    room: int
    waiting: int
    age: int


@dataclass(frozen=True)
class GroupFigures:
    """One group: processes with members."""

    name: str
    processes: int


@dataclass
class Figures:
    """All figures of all hosts."""

    inboxes: list[InboxFigures] = field(default_factory=list)
    queues: list[QueueFigures] = field(default_factory=list)
    groups: list[GroupFigures] = field(default_factory=list)


def read(url: Urls, prefix: str = "gredis", *, timeout: float = 5.0) -> Figures:
    """The figures at `url`; raises `Unreachable`. Works with any driver's processes."""
    crossbar = GeventCrossbar(url, prefix, timeout=timeout)
    try:
        return read_from(crossbar)
    finally:
        crossbar.close()


def read_from(crossbar: GeventCrossbar) -> Figures:
    """The figures as a crossbar that is there already sees them, without its own inbox."""
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
    """Figures for Prometheus: what became of this process's messages, and what waits in queues.

    Those of the queues are the same in every process. Raises `Unreachable`.
    """
    counters = crossbar.router.counters
    found: list[MetricFamily] = [
        (f"gredis_messages_{name}_total", "counter", meaning, {"": getattr(counters, name)})
        for name, meaning in _COUNTED.items()
    ]
    waiting = {f'queue="{each.name}"': each.waiting for each in read_from(crossbar).queues}
    return [*found, ("gredis_queue_waiting", "gauge", "Messages that wait in a queue", waiting)]


def table(figures: Figures) -> str:
    """The figures for people."""
    inboxes = [
        (each.name, "yes" if each.present else "no", each.kept, seconds(each.age), each.ever,
         each.dropped)
        for each in figures.inboxes
    ]  # fmt: skip
    queues = [
        (each.name, each.takers, each.room, each.waiting, seconds(each.age))
        for each in sorted(figures.queues, key=lambda each: each.name)
    ]
    groups = [(each.name, each.processes) for each in sorted(figures.groups, key=_by_name)]
    return "\n\n".join([
        columns(("inbox", "there", "kept", "oldest", "ever", "dropped"), inboxes),
        columns(("queue", "takers", "room", "waiting", "oldest"), queues),
        columns(("group", "processes"), groups),
    ])  # fmt: skip


def _by_name(each: Any) -> str:
    return str(each.name)


def seconds(milliseconds: int) -> str:
    """An age as people write it."""
    return f"{milliseconds / 1000:.1f} s" if milliseconds else "-"


def columns(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Rows under their heads, names to the left and figures to the right."""
    lines = [head, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
