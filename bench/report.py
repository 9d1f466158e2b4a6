"""The results for readers: a table with ratios and a plot for each case, and an overview."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.cases import LESS_IS_BETTER, Case
from bench.servers import NULL, is_peer

Figures = dict[str, float]


def ratio_to_best_peer(case: Case, results: dict[str, Figures], name: str) -> float | None:
    """Return the ratio to the best other server, above 1 if better; None if there is none."""
    peers = [figures[case.better] for peer, figures in results.items() if is_peer(peer)]
    mine = results[name][case.better]
    if not peers or not mine:
        return None
    return min(peers) / mine if case.better in LESS_IS_BETTER else mine / max(peers)


def table(case: Case, results: dict[str, Figures], base: Any = None) -> str:
    """Return the results of a case as a Markdown table."""
    extras = sorted(
        {key for figures in results.values() for key in figures}
        - {
            "runs",
            "per_cpu_second",
            "per_second",
            "generator_busy",
            "generator_us",
            "p50_ms",
            "p99_ms",
        }
    )
    head = [case.title, f"{case.unit} / CPU s", "µs CPU each", f"{case.unit} / s", "p50 ms",
            "p99 ms", "generator", "generator µs each", *extras, "× best peer"]  # fmt: skip
    if base:
        head.append("× base")
    rows = [_row(case, results, name, extras, base) for name in results]
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n" + "\n".join(lines)


def _row(
    case: Case, results: dict[str, Figures], name: str, extras: list[str], base: Any
) -> list[str]:
    figures = results[name]
    rate = figures["per_cpu_second"]
    cells = [name, f"{rate:,.0f}", f"{1e6 / rate:,.1f}" if rate else "–"]
    cells.append(f"{figures['per_second']:,.0f}")
    cells += [f"{figures[key]:.1f}" if key in figures else "–" for key in ("p50_ms", "p99_ms")]
    cells.append(f"{figures['generator_busy']:.0%}")
    cells.append(f"{figures['generator_us']:,.1f}")
    cells += [f"{figures[key]:,.2f}" if key in figures else "–" for key in extras]
    ratio = ratio_to_best_peer(case, results, name)
    cells.append(f"{ratio:.2f}" if ratio and name != NULL.name else "–")
    if base:
        before = base["results"].get(case.name, {}).get(name, {}).get(case.better)
        cells.append(f"{figures[case.better] / before:.2f}" if before else "–")
    return cells


def _colour(name: str) -> str:
    if name == NULL.name:
        return "#ffffff00"  # there is no server
    return "#b9c4c0" if is_peer(name) else "#1b6e53"


KINDS = {
    "thyme": ("o", "thyme, in one process"),
    "thyme, esque": ("o", ""),
    "thyme, ASGI": ("D", "a coroutine without Django"),
    "thyme split, 1 worker": ("s", "server and one worker"),
    "thyme split, 2 workers": ("^", "server and two workers"),
}
"""Marker and legend of each of our servers in the overview."""


def overview(cases: list[Case], results: dict[str, dict[str, Figures]], folder: Path) -> None:
    """Plot the ratios to the best other server, one line per case (PNG and SVG)."""
    compared = [
        (case, {name: ratio_to_best_peer(case, results[case.name], name)
                for name in KINDS if name in results[case.name]})
        for case in reversed(cases)
    ]  # fmt: skip
    lines = [(case.title, ratios) for case, ratios in compared if any(ratios.values())]
    if not lines:
        return
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(lines) + 1.6), layout="constrained")
    for name, (marker, legend) in KINDS.items():
        points = [(ratios[name], line) for line, (_, ratios) in enumerate(lines)
                  if ratios.get(name)]  # fmt: skip
        if points:
            axes.plot(*zip(*points, strict=True), marker, label=legend or "_", color="#1b6e53",
                      markerfacecolor="#1b6e53" if marker == "o" else "white")  # fmt: skip
    axes.set_xscale("log")
    axes.axvline(1, color="#8a9692", linewidth=1)
    axes.set_yticks(range(len(lines)), [title for title, _ in lines])
    axes.margins(y=0.03)
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [f"{tick:g} ×" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color="#dfe5e2")
    axes.set(xlabel="ratio to the best other server in that case")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    _save(figure, folder / "overview")
    plt.close(figure)


def plot(case: Case, results: dict[str, Figures], folder: Path) -> None:
    """Plot a case as horizontal bars, ours dark, the others light (PNG and SVG)."""
    if not results:
        return
    plt = _pyplot()
    names = list(results)[::-1]
    values = [results[name][case.better] for name in names]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(names) + 1.2), layout="constrained")
    bars = axes.barh(names, values, color=[_colour(name) for name in names])
    digits = 2 if max(values) < 10 else 0
    axes.bar_label(bars, [f"{value:,.{digits}f}" for value in values], padding=4)
    unit = {
        "per_cpu_second": f"{case.unit} per CPU second",
        "per_second": f"{case.unit} per second",
        "calls": "system calls (less is better)",
        "grown_mib": "growth of the server in MiB (less is better)",
        "kib_per_socket": "KiB per socket (less is better)",
        "first_answer_s": "seconds (less is better)",
    }[case.better]
    axes.set(title=case.title, xlabel=unit)
    axes.margins(x=0.15)
    _save(figure, folder / case.name)
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "thyme"
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path.with_suffix(".png"), dpi=120)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
