"""The benchmark itself: that it measures real servers, and that its ratios say what they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench.cases import CASES
from bench.measures import calls_after
from bench.report import overview, ratio_to_best_peer, table

CASE = {case.name: case for case in CASES}


def figures(value: float, key: str = "per_cpu_second") -> dict[str, float]:
    rates = {"per_cpu_second": 1.0, "per_second": 1.0, "generator_busy": 0.1, "generator_us": 9.0}
    return rates | {key: value}


def test_a_ratio_is_to_the_best_of_the_peers_and_the_null_server_is_none():
    results = {
        "null": figures(9000),
        "thyme": figures(300),
        "uvicorn": figures(100),
        "daphne": figures(50),
    }
    assert ratio_to_best_peer(CASE["echo"], results, "thyme") == 3
    assert ratio_to_best_peer(CASE["echo"], results, "daphne") == 0.5


def test_where_less_is_better_the_ratio_is_turned_over():
    key = "kib_per_socket"
    results = {"thyme": figures(10, key), "uvicorn": figures(30, key), "daphne": figures(20, key)}
    assert ratio_to_best_peer(CASE["memory"], results, "thyme") == 2


def test_two_runs_are_compared_by_the_figure_of_the_case():
    base = {"results": {"echo": {"thyme": figures(100)}}}
    last_row = table(CASE["echo"], {"thyme": figures(150)}, base).splitlines()[-1]
    assert last_row.endswith("| 1.50 |")


def test_system_calls_are_counted_from_a_moment_on():
    trace = """strace: Process 11 attached with 2 threads
[pid    12] 100.100000 futex(0x7f, FUTEX_WAIT_BITSET <unfinished ...>
[pid    11] 100.200000 epoll_wait(3, [], 1024, 100) = 0
[pid    11] 101.500000 epoll_wait(3, [{events=EPOLLIN}], 1024, 100) = 1
[pid    12] 102.100000 <... futex resumed>) = 0
[pid    12] 102.200000 read(5, "", 10) = 0
strace: Process 11 detached
"""
    assert calls_after(101, trace) == 2
    assert calls_after(101.7, trace.replace("[pid    12] ", "")) == 1


def test_the_overview_has_the_cases_in_which_there_are_peers(tmp_path):
    cases = [CASE["echo"], CASE["room-100"]]
    results = {"echo": {"thyme": figures(300), "uvicorn": figures(100)}}
    overview(cases, results | {"room-100": {"thyme": figures(300)}}, tmp_path)
    drawn = (tmp_path / "overview.svg").read_text()
    assert CASE["echo"].title in drawn
    assert CASE["room-100"].title not in drawn
    assert (tmp_path / "overview.png").stat().st_size > 1000


@pytest.mark.parametrize("case", ["raw-echo"])
def test_a_run_prints_a_table_and_writes_json_and_plots(tmp_path, case):
    command = [sys.executable, "-m", "bench", "--case", case, "--size", "0.02"]
    command += ["--repetitions", "2", "--server", "null", "--server", "thyme, esque"]
    # Neither is used by an application without Django; nothing is to be started for it.
    services = {"REDIS_URL": "redis://127.0.0.1:1", "DATABASE_URL": "postgresql://127.0.0.1:1/x"}
    run = subprocess.run(
        [*command, "--output", str(tmp_path)],
        env=os.environ | services,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert [line.split(" | ")[0] for line in run.stdout.splitlines() if line.startswith("| ")] == [
        f"| {CASE[case].title}",
        "| ---",
        "| null",
        "| thyme, esque",
    ]
    results = json.loads((tmp_path / "results.json").read_text())["results"][case]
    assert results["thyme, esque"]["per_cpu_second"] > 0
    assert results["null"]["runs"] == 2
    for ending in ("png", "svg"):
        assert (tmp_path / f"{case}.{ending}").stat().st_size > 1000
    assert "| thyme, esque |" in (tmp_path / "tables.md").read_text()
