"""The guard of the notebooks: pytest fails whenever a cell has not been compared.

Each test is a real `pytest --nbval` on a small chapter, beside a copy of `notebooks/conftest.py`.
"""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks.rules import ROOT

CELL_SECONDS = 60  # nbval gives up on a cell after this
DIE = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def run(tmp_path):
    """`pytest --nbval` on a chapter of these cells: (exit code, all that it said)."""

    def run(*cells, guarded=True, seconds=CELL_SECONDS):
        nbformat.write(new_notebook(cells=list(cells)), tmp_path / "chapter.ipynb")
        if guarded:
            shutil.copy(ROOT / "notebooks/conftest.py", tmp_path)
        options = ["--nbval-current-env", f"--nbval-cell-timeout={seconds}", "-p", "no:django"]
        (tmp_path / "pytest.ini").write_text("[pytest]\n")  # not the checkout's
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "--nbval", *options, str(tmp_path)],
            cwd=tmp_path,
            env={name: text for name, text in os.environ.items() if not name.startswith("PYTEST")},
            capture_output=True,
            text=True,
        )
        return ended.returncode, ended.stdout + ended.stderr

    return run


def two(count=1, source="1 + 1", **metadata):
    """A cell that says 2."""
    said = new_output("execute_result", data={"text/plain": "2"}, execution_count=count)
    return new_code_cell(source, execution_count=count, outputs=[said], metadata=metadata)


def test_a_verified_chapter_passes_and_its_time_is_told(run):
    code, said = run(new_markdown_cell("# Sums"), two(1), two(2))
    assert code == 0, said
    assert "2 passed" in said
    assert "chapter.ipynb: " in said


def test_an_output_that_differs_fails(run):
    code, said = run(two(source="1 + 2"))
    assert code == 1, said


def test_a_kernel_that_dies_fails(run):
    code, said = run(two(1), new_code_cell(DIE, execution_count=2), two(3), two(4))
    assert code == 1, said
    assert "not verified" in said


def test_a_cell_that_takes_too_long_fails_with_all_that_follow(run):
    endless = new_code_cell("while True:\n    pass", execution_count=1)
    code, said = run(endless, two(2), two(3, source="1 + 2"), seconds=3)
    assert code == 1, said
    assert "3 failed" in said


@pytest.mark.parametrize("outputs", ["kept", "stripped"])
def test_a_cell_without_its_count_fails(run, outputs):
    cell = two(None)
    if outputs == "stripped":
        cell.outputs = []
    code, said = run(cell)
    assert code == 1, said
    assert "never executed" in said


def test_a_stripped_output_fails(run):
    cell = two()
    cell.outputs = []
    code, said = run(cell)
    assert code == 1, said


def test_a_skipped_cell_fails(run):
    code, said = run(two(1), two(2, tags=["nbval-skip"]))
    assert code == 1, said
    assert "not verified" in said


def test_a_chapter_without_code_fails(run):
    code, said = run(new_markdown_cell("# Nothing"))
    assert code != 0
    assert "nothing to verify" in said


def test_without_the_guard_a_stripped_chapter_would_pass(run):
    """What the guard is for; should this fail one day, nbval has learnt it."""
    cell = two(None, source="1 + 2")
    cell.outputs = []
    code, said = run(cell, guarded=False)
    assert code == 0, said
