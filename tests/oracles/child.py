"""One module of an oracle, in a process of its own; see `run.py`, which listens to it.

    child.py SUITE MODULE ours|stock DESCRIPTOR LEFT_OUT

DESCRIPTOR is where reports go, one JSON list a line: what, which test, detail. LEFT_OUT is a JSON
list of patterns: tests that are done, or that hang.
"""

from __future__ import annotations

import fnmatch
import json
import os
import sys
import unittest
from pathlib import Path
from typing import Any

AGAIN = ("EPollEventLoopTests", "PollEventLoopTests", "KqueueEventLoopTests")
"""The tests of `SelectEventLoopTests` once more, with selectors that our loop has not."""

LOOPS = {"ours": 0, "stock": 0}
"""How many loops were made here: whether the oracle asked whom it was to ask."""


class Reports:
    """Where the parent listens."""

    def __init__(self, descriptor: int, left_out: list[str]) -> None:
        self.descriptor = descriptor
        self.left_out = left_out
        self.outcome = "passed", ""

    def say(self, what: str, name: str, detail: str = "") -> None:
        os.write(self.descriptor, json.dumps([what, name, detail]).encode() + b"\n")

    def chosen(self, name: str) -> bool:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.left_out):
            self.say("left out", name)
            return False
        return True

    def start(self, name: str) -> None:
        self.outcome = "passed", ""
        self.say("start", name)

    def failed(self, text: str) -> None:
        print(text, file=sys.stderr)
        self.outcome = "failed", text.strip().splitlines()[-1]

    def end(self, name: str) -> None:
        self.say(self.outcome[0], name, self.outcome[1])


# -- which loops


def become_ours() -> None:
    """Patch this process, and let every way to make a loop lead to ours."""
    from gevent import monkey

    monkey.patch_all()
    import asyncio

    from thyme import loop

    made, set_policy = loop.HubLoop.__init__, asyncio.events.set_event_loop_policy

    def make(self: Any, selector: Any = None) -> None:  # some tests bring one; ours has the hub
        if selector is not None:
            selector.close()
        made(self)

    def never_stock(policy: Any) -> None:  # each module puts the default back at its end
        set_policy(loop.HubLoopPolicy() if policy is None else policy)

    loop.install()
    loop.HubLoop.__init__ = make  # type: ignore[method-assign]
    changed: Any = asyncio
    changed.SelectorEventLoop = changed.EventLoop = loop.HubLoop
    changed.DefaultEventLoopPolicy = loop.HubLoopPolicy
    changed.set_event_loop_policy = changed.events.set_event_loop_policy = never_stock


def count_loops() -> None:
    import asyncio

    base: Any = asyncio.selector_events.BaseSelectorEventLoop
    made = base.__init__

    def make(self: Any, *args: Any) -> None:
        LOOPS["ours" if hasattr(self, "on_gevent") else "stock"] += 1
        made(self, *args)

    base.__init__ = make


# -- which tests


def short(test: unittest.TestCase) -> str:
    return test.id().removeprefix("test.test_asyncio.")


class Result(unittest.TestResult):
    """Tells the parent of each test; one with subtests that fail has failed once."""

    def __init__(self, reports: Reports) -> None:
        super().__init__()
        self.reports = reports

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.reports.start(short(test))

    def addError(self, test: Any, error: Any) -> None:
        self.reports.failed(self._exc_info_to_string(error, test))  # type: ignore[attr-defined]
        if not isinstance(test, unittest.TestCase):  # setUpModule, setUpClass
            self.reports.end(short(test))

    addFailure = addError

    def addSubTest(self, test: Any, subtest: Any, error: Any) -> None:
        if error is not None:
            self.addError(test, error)

    def addSkip(self, test: Any, reason: str) -> None:
        self.reports.outcome = "skipped", reason

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.reports.failed("unexpected success")

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.reports.end(short(test))


def run_unittest(module: str, reports: Reports) -> None:
    def tests(part: Any) -> Any:
        if isinstance(part, unittest.TestSuite):
            return unittest.TestSuite(found for p in part if (found := tests(p)) is not None)
        kept = type(part).__name__ not in AGAIN and reports.chosen(short(part))
        return part if kept else None

    suite = unittest.defaultTestLoader.loadTestsFromName(f"test.test_asyncio.{module}")
    tests(suite).run(Result(reports))


class Plugin:
    """The same for pytest."""

    def __init__(self, reports: Reports) -> None:
        self.reports = reports

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if self.reports.chosen(item.nodeid)]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.reports.start(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.reports.failed(report.longreprtext)
        elif report.skipped:  # also an expected failure
            self.reports.outcome = "skipped", str(report.longrepr)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.reports.end(nodeid)


def main(suite: str, module: str, whose: str, descriptor: str, left_out: str) -> None:
    reports = Reports(int(descriptor), json.loads(left_out))
    sys.path[:1] = [str(Path.cwd()), str(Path(__file__).resolve().parents[2])]
    if whose == "ours":
        become_ours()
    count_loops()
    if suite == "asyncio":
        run_unittest(module, reports)
    else:
        import pytest

        pytest.main(["-q", "-p", "no:cacheprovider", module], plugins=[Plugin(reports)])
    reports.say("end", module, f"loops: {LOOPS['ours']} ours, {LOOPS['stock']} stock")


if __name__ == "__main__":
    main(*sys.argv[1:])
