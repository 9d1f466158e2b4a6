"""Programs that are run both ways, stock and short: see `test_short_way.py`."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def child() -> Iterator[subprocess.Popen[str]]:
    """The patched process that runs the programs, one after another."""
    command = [sys.executable, "-m", "tests.thyme.short_way_site"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=10) == 0


class Ways:
    """Runs programs in the child."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child

    def run(self, program: str, *, stock: bool) -> str:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        order: dict[str, Any] = {"program": textwrap.dedent(program), "STOCK": stock}
        print(json.dumps(order), file=self.child.stdin, flush=True)
        answer = json.loads(self.child.stdout.readline())
        assert answer["error"] is None, answer["error"]
        return str(answer["printed"]).strip()

    def both(self, program: str) -> str:
        """What `program` prints, the same both ways."""
        stock, short = self.run(program, stock=True), self.run(program, stock=False)
        assert short == stock
        return short

    def short(self, program: str) -> str:
        """What `program` prints on the short way."""
        return self.run(program, stock=False)


@pytest.fixture
def ways(child: subprocess.Popen[str]) -> Ways:
    return Ways(child)
