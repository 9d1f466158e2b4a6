"""One style of drawing for all chapters: SVG made by code, few colours, readable in grey.

A `Figure` is a sheet of paper with four tools (`box`, `line`, `arrow`, `text`); the functions below
it draw what more than one chapter shows. The same calls always give the same bytes, so nbval
compares figures like any other output: what a figure claims is checked. Measurements differ from
run to run; they are plotted with `plot()`, as PNG, which nbval does not compare.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from xml.sax.saxutils import escape

from course.chapters import CHAPTERS

INK, GREY, PALE, PAPER = "#22272e", "#6b7480", "#e9edf2", "#ffffff"
BLUE, AMBER = "#1f5f99", "#f0b64d"  # dark and light: different in grey, too

FILLS = {  # kind of box: fill, outline, letters
    "plain": (PAPER, INK, INK),
    "pale": (PALE, PALE, INK),
    "ours": (BLUE, BLUE, PAPER),
    "store": (AMBER, INK, INK),
}
FONT = "Helvetica, Arial, sans-serif"
LINE = 15  # units between the lines of a text


class Figure:
    """A drawing of `width` by `height` units; `title` says in a sentence what it shows."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[str] = []

    def __repr__(self) -> str:
        return f"Figure: {self.title}"

    def _repr_svg_(self) -> str:
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}"'
                f' width="{self.width}" height="{self.height}" role="img" font-size="12"'
                f' font-family="{FONT}">',
                f"<title>{escape(self.title)}</title>",
                f'<rect width="{self.width}" height="{self.height}" rx="6" fill="{PAPER}"/>',
                *self._parts,
                "</svg>",
            ]
        )

    def box(
        self, x: float, y: float, width: float, height: float, text: str, kind: str = "plain"
    ) -> None:
        """A box with `text` (lines separated by newlines) in its middle; `kind` as in FILLS."""
        fill, outline, ink = FILLS[kind]
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}"'
            f' stroke="{outline}"/>'
        )
        lines = text.split("\n")
        first = y + height / 2 + 4 - (len(lines) - 1) * LINE / 2
        for number, line in enumerate(lines):
            self.text(x + width / 2, first + number * LINE, line, ink=ink, bold=number == 0)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        ink: str = INK,
        anchor: str = "middle",
        bold: bool = False,
        halo: bool = False,
    ) -> None:
        """One line of text; (x, y) is where its middle (or `anchor`) stands.

        `halo`: keeps clear of lines behind it.
        """
        weight = ' font-weight="bold"' if bold else ""
        if halo:
            weight += f' stroke="{PAPER}" stroke-width="5" paint-order="stroke"'
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{ink}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def line(self, points: Sequence[tuple[float, float]], *, dashed: bool = False) -> None:
        """A line through `points`; dashed for what is there, solid for what moves."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="3 4"' if dashed else ""
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{GREY}"{dash}/>')

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], *, both: bool = False
    ) -> None:
        """A straight arrow; with heads at both ends for a conversation."""
        (x1, y1), (x2, y2) = start, end
        self._parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{INK}"'
            ' stroke-width="1.5"/>'
        )
        self._head(start, end)
        if both:
            self._head(end, start)

    def _head(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        (x1, y1), (x2, y2) = start, end
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        corners = [(x2, y2)]
        corners += [(x2 - 8 * dx + side * dy, y2 - 8 * dy - side * dx) for side in (4, -4)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        self._parts.append(f'<polygon points="{path}" fill="{INK}"/>')


# --- what more than one chapter shows -----------------------------------------------------


def you_are_here(number: int) -> Figure:
    """The way through the course up to chapter `number`; later chapters do not change it."""
    so_far = CHAPTERS[: number + 1]
    rows = 1 + number // 5
    figure = Figure(
        760, 14 + 48 * rows, f"You are here: chapter {number:02}, {so_far[number].name}."
    )
    for place, chapter in enumerate(so_far):
        row, column = divmod(place, 5)
        kind = "ours" if place == number else "pale"
        figure.box(10 + column * 149, 10 + row * 48, 140, 38, f"{place:02}\n{chapter.name}", kind)
    return figure


def system_map() -> Figure:
    """The whole system: who talks to whom, and over what."""
    figure = Figure(760, 250, "Browsers, server with relay, Redis, two workers, Postgres.")
    for y, who in ((30, "Alice"), (155, "Bob")):
        figure.box(10, y, 90, 50, f"{who}'s\nbrowser")
        figure.arrow((100, y + 25), (190, 90 + y / 5), both=True)
    figure.text(118, 115, "HTTP and", ink=GREY)
    figure.text(118, 130, "WebSocket", ink=GREY)
    figure.box(190, 45, 110, 145, "server\nsockets, HTTP,\nWebSocket,\nand the relay", "ours")
    figure.arrow((300, 118), (370, 118), both=True)
    figure.text(335, 108, "gredis", ink=GREY)
    figure.box(370, 83, 90, 70, "Redis\ncarries\nand forgets", "store")
    for y, name in ((20, "A"), (145, "B")):
        figure.arrow((460, 92 + y / 3), (530, y + 35), both=True)
        figure.box(530, y, 100, 70, f"worker {name}\nDjango,\nChannels, chat", "ours")
        figure.arrow((630, y + 35), (670, 92 + y / 3), both=True)
    figure.text(478, 70, "gredis", ink=GREY)
    figure.box(670, 83, 80, 70, "Postgres\nrooms,\nusers", "store")
    figure.text(380, 240, "blue: our processes, of one thread each · amber: stores", ink=GREY)
    return figure


def sequence(
    title: str, lanes: Sequence[str], hops: Iterable[tuple[str, str, str]], **kinds: str
) -> Figure:
    """A sequence diagram: `hops` are (from, to, what), from top to bottom, between `lanes`.

    `kinds`: how the heads of some lanes are filled, as in FILLS.
    """
    hops = list(hops)
    step, row = 760 / len(lanes), 34
    figure = Figure(760, 64 + row * len(hops), title)
    middle = {lane: step * (number + 0.5) for number, lane in enumerate(lanes)}
    width = min(step - 14, 110)
    for lane, x in middle.items():
        figure.line([(x, 42), (x, figure.height - 8)], dashed=True)
        figure.box(x - width / 2, 12, width, 30, lane, kinds.get(lane, "pale"))
    for number, (source, target, what) in enumerate(hops, 1):
        y = 42 + row * number
        figure.arrow((middle[source], y), (middle[target], y))
        figure.text((middle[source] + middle[target]) / 2, y - 6, f"{number}  {what}", halo=True)
    return figure


def layout(
    title: str,
    fields: Iterable[tuple[int, str] | tuple[int, str, str]],
    row: int = 32,
    unit: str = "bit",
) -> Figure:
    """How units (bits, bytes) lie one after another, `row` of them in a line, as RFCs draw it.

    A field is (how many units, text) or, filled as FILLS says, (how many, text, kind). One that
    goes over the end of a row has its text in its widest piece.
    """
    pieces = _pieces(fields, row)
    cell, height, left = 716 / row, 46, 34
    figure = Figure(760, 34 + height * (pieces[-1][0] + 1), title)
    for place in range(0, row + 1, max(1, row // 8)):
        figure.text(left + place * cell, 16, str(place), ink=GREY)
    figure.text(4, 16, unit, ink=GREY, anchor="start")
    for line, start, width, text, kind in pieces:
        x, y = left + start * cell, 24 + line * height
        figure.box(round(x, 2), y, round(width * cell, 2), height - 6, text, kind)
    for line in range(pieces[-1][0] + 1):
        figure.text(4, 24 + line * height + 24, str(line * row), ink=GREY, anchor="start")
    return figure


def _pieces(fields: Iterable[Any], row: int) -> list[tuple[int, int, int, str, str]]:
    """(line, start, width, text, kind) of each piece that a row leaves in one piece."""
    pieces, at = [], 0
    for width, text, *kind in fields:
        parts = []
        while width:
            line, start = divmod(at, row)
            part = min(width, row - start)
            parts.append((line, start, part))
            at, width = at + part, width - part
        widest = max(parts, key=lambda part: part[2])
        pieces += [(*each, text if each is widest else "", *(kind or ["plain"])) for each in parts]
    return pieces


def turns(title: str, order: Sequence[str], lanes: Sequence[str] = (), **kinds: str) -> Figure:
    """Whose turn it was, step by step: one row for each name, one box for each turn.

    `order`: the names as they had their turns; `lanes`: the rows from top to bottom (default: as
    they appear); `kinds`: how the boxes of some rows are filled, as in FILLS.
    """
    lanes = lanes or list(dict.fromkeys(order))
    width = min(44.0, 640 / len(order))
    figure = Figure(760, 20 + 34 * len(lanes), title)
    for number, lane in enumerate(lanes):
        y = 10 + 34 * number
        figure.text(92, y + 19, lane, anchor="end", bold=True)
        figure.line([(104, y + 15), (104 + width * len(order), y + 15)], dashed=True)
        for step in [step for step, who in enumerate(order) if who == lane]:
            x = round(105 + step * width, 2)
            figure.box(x, y, round(width - 2, 2), 28, str(step + 1), kinds.get(lane, "ours"))
    return figure


class Table:
    """Rows under the names of their columns. nbval compares it: no times in it."""

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        self.columns, self.rows = columns, [[str(cell) for cell in row] for row in rows]

    def __repr__(self) -> str:
        return "\n".join(" | ".join(row) for row in [self.columns, *self.rows])

    def _repr_html_(self) -> str:
        lines = [("th", self.columns), *(("td", row) for row in self.rows)]
        rows = [
            "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
            for tag, cells in lines
        ]
        return "<table>\n" + "\n".join(rows) + "\n</table>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """What was found, side by side; the first column says what each row is about."""
    return Table(columns, rows)


@contextlib.contextmanager
def plot(x: str, y: str, height: float = 2.8) -> Iterator[Any]:
    """Axes for a measurement, shown when the block ends; `x` and `y` name quantity and unit."""
    # Without this, the first plot on a machine may say on stderr that it looks for fonts.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots(figsize=(7.6, height), layout="constrained")
    axes.set(xlabel=x, ylabel=y)
    axes.set_prop_cycle(color=[BLUE, AMBER, GREY])
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    plt.show()
    plt.close(drawing)


def gantt(
    spans: Iterable[tuple[str, float, float] | tuple[str, float, float, str]],
    unit: str = "milliseconds",
    **kinds: str,
) -> None:
    """Who did something from when to when, as measured (PNG): one row for each name.

    A span is (who, start, end) or (who, start, end, what), in `unit` since any moment; `kinds`
    gives `what`s a colour (`served="ours", waits="store"`), and a legend.
    """
    spans = [(*span, "") if len(span) == 3 else span for span in spans]
    rows = list(dict.fromkeys(who for who, *_ in spans))
    zero = min(start for _, start, _, _ in spans)
    with plot(f"time ({unit})", "", height=0.8 + 0.32 * len(rows)) as axes:
        for kind in dict.fromkeys(what for *_, what in spans):
            mine = [span for span in spans if span[3] == kind]
            axes.barh(
                [rows.index(who) for who, *_ in mine],
                [end - start for _, start, end, _ in mine],
                left=[start - zero for _, start, _, _ in mine],
                height=0.62,
                color=FILLS[kinds.get(kind, "ours")][0],
                edgecolor=INK,
                linewidth=0.5,
                label=kind,
            )
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        if kinds:
            axes.legend(frameon=False, ncols=len(kinds), loc="lower right", bbox_to_anchor=(1, 1))
