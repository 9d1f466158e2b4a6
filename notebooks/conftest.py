"""The guard: under `pytest --nbval`, no cell stays unverified in silence.

nbval alone may exit with 0 although nothing was compared: the cells after a dead kernel or a
time-out are "expected" to fail, a cell without a count is run but not compared, one with
NBVAL_SKIP is not even run. Here each of these is a failure. What a chapter must look like beyond
that is checked in `tests/notebooks/`, where the guard itself is tested, too.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

CHAPTER_SECONDS = 20.0  # of one chapter, its kernel included; longer ones are named, and pass

passed: set[str] = set()
wanted: dict[str, str] = {}  # node id of each cell that has to pass ► its chapter
seconds: dict[str, float] = defaultdict(float)
complaints: list[str] = []


def is_cell(item: pytest.Item) -> bool:
    return isinstance(item, IPyNbCell)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted.update({item.nodeid: item.path.name for item in items if is_cell(item)})


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """A chapter without a code cell would be collected, empty, and pass."""
    report = yield
    if isinstance(collector, IPyNbFile) and report.passed and not report.result:
        report.outcome = "failed"
        report.longrepr = f"{collector.path.name} has no code cell: there is nothing to verify"
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    if is_cell(item) and item.cell.execution_count is None:
        pytest.fail("this cell was never executed, so nothing is compared: make notebooks", False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Skipped, xfailed and xpassed cells have failed."""
    report = yield
    if is_cell(item):
        seconds[item.path.name] += call.duration
        unverified = report.skipped or hasattr(report, "wasxfail")
        if unverified and not report.failed:
            why = getattr(report, "wasxfail", "") or "skipped"
            report.__dict__.pop("wasxfail", None)
            report.outcome = "failed"
            report.longrepr = f"this cell was not verified: {why}"
        elif report.when == "call" and report.passed:
            passed.add(item.nodeid)
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session):
    """Whatever happened: exit code 0 means that every cell has been compared."""
    yield
    if session.exitstatus != pytest.ExitCode.OK or session.config.option.collectonly:
        return
    if missing := wanted.keys() - passed:
        complaints.append(f"{len(missing)} cells were never verified: {', '.join(sorted(missing))}")
    if complaints:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for chapter, taken in sorted(seconds.items()):
        note = f", wanted are {CHAPTER_SECONDS:g}" if taken > CHAPTER_SECONDS else ""
        terminalreporter.write_line(f"{chapter}: {taken:.1f} s{note}")
    for complaint in complaints:
        terminalreporter.write_line(complaint, red=True)
