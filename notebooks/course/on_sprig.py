"""A pytest plugin: run tests of the real server and layer on the sprig of a workspace instead.

    python -m course.on_sprig tests/thyme/server/test_conformance.py      PYTHONPATH=WORKSPACE:…

The process is patched by gevent, as a sprig is. Its last line is JSON: how many tests passed, of
how many, and the names of those that failed. Deadlines are short, because failing tests wait.
"""

from __future__ import annotations

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()  # a program: first of all, before anything else is imported

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

SECONDS = 10  # instead of the tests' own deadlines


def sprig(name: str) -> Any:
    """Import a module of the sprig."""
    return importlib.import_module(f"sprig.{name}")


@contextmanager
def serving(application: Any, **settings: Any) -> Iterator[Any]:
    """Run the sprig's server, which has no settings. Chapter 04's echoes by itself."""
    make = sprig("server").Server
    server = make(application, 0) if has_module("application") else make(0)
    try:
        yield SimpleNamespace(address=("127.0.0.1", int(server.url.rpartition(":")[2])))
    finally:
        server.listener.stop(0)


def has_module(name: str) -> bool:
    return importlib.util.find_spec(f"sprig.{name}") is not None


class Plugin:
    """Puts the sprig in the place of the real modules, and counts."""

    def __init__(self) -> None:
        self.outcomes: dict[str, bool] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for module in {item.module for item in items}:
            if hasattr(module, "serving"):
                module.serving = serving
                importlib.import_module("tests.thyme.serving").DEADLINE = SECONDS
            if hasattr(module, "GredisChannelLayer"):
                module.GredisChannelLayer = make_layer
                contract = importlib.import_module("tests.contract.conftest")
                contract.LOOPS["gevent"] = sprig("loop").HubLoop
                contract.DEADLINE = SECONDS

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        passed = self.outcomes.get(report.nodeid, True)
        self.outcomes[report.nodeid] = passed and report.passed


def make_layer(url: str, **options: Any) -> Any:
    """Return the sprig's channel layer; before chapter 08 it knows no URL."""

    class Layer(sprig("layer").ChannelLayer):
        async def close(self) -> None:
            self.crossbar.carrier.close()

    return Layer(url, **options) if has_module("process") else Layer(**options)


def main() -> None:
    plugin = Plugin()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take seconds to load
    options = ["-q", "--tb=no", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]
    pytest.main([*sys.argv[1:], *options], [plugin])
    failed = sorted(name.rpartition("::")[2] for name, ok in plugin.outcomes.items() if not ok)
    total = len(plugin.outcomes)
    print(json.dumps({"passed": total - len(failed), "total": total, "failed": failed}))


if __name__ == "__main__":
    main()
