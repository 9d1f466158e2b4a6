"""The guard: under `pytest --nbval`, no cell stays unverified in silence.

nbval alone may exit with 0 although nothing was compared: the cells after a dead kernel or a
time-out are "expected" to fail, a cell without a count is run but not compared, one with
NBVAL_SKIP is not even run. Here each of these is a failure. What a chapter must look like beyond
that is checked in `tests/notebooks/`, where the guard itself is tested, too.

Only chapters are collected, and they run with IPython's defaults: a reader's own notebooks, files
and settings do no harm. A chapter that fails after a reader has changed it is named, with the
command that restores it.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
from course import chapters
from nbval.plugin import IPyNbCell, IPyNbFile

CHAPTER_SECONDS = 20.0  # of one chapter, its kernel included; longer ones are named, and pass

HERE = Path(__file__).parent

passed: set[str] = set()
failed: set[Path] = set()  # chapters
wanted: dict[str, str] = {}  # node id of each cell that has to pass ► its chapter
seconds: dict[str, float] = defaultdict(float)
complaints: list[str] = []


def is_cell(item: pytest.Item) -> bool:
    return isinstance(item, IPyNbCell)


def pytest_configure(config: pytest.Config) -> None:
    """Give the kernels an IPython directory of their own, instead of the reader's."""
    directory = tempfile.TemporaryDirectory(prefix="thyme-course-ipython-")
    config.add_cleanup(directory.cleanup)
    os.environ["IPYTHONDIR"] = directory.name


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Ignore what is not a chapter, unless it was named on the command line."""
    inside = HERE in collection_path.parents
    return True if inside and collection_path not in chapters.paths(HERE) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted.update({item.nodeid: item.path.name for item in items if is_cell(item)})


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """A chapter without a code cell would be collected, empty, and pass."""
    report = yield
    if isinstance(collector, IPyNbFile) and report.passed and not report.result:
        report.outcome = "failed"
        report.longrepr = f"{collector.path.name} has no code cell: there is nothing to verify"
    if report.failed:
        failed.add(collector.path)
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
        if report.failed:
            failed.add(item.path)
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
    advice = [chapters.how_to_restore(path) for path in chapters.changed(HERE) if path in failed]
    for complaint in complaints + advice:
        terminalreporter.write_line(complaint, red=True)
