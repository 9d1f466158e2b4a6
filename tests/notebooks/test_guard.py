"""The guard of the notebooks: pytest fails whenever a cell has not been compared.

Each test is a real `pytest --nbval` on a small chapter, beside a copy of `notebooks/conftest.py`.
What a reader may leave in that folder, or change, is tested here, too.
"""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from course import chapters
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks.rules import ROOT

CHAPTER = chapters.CHAPTERS[0].file
CELL_SECONDS = 60  # nbval gives up on a cell after this
DEAD_SECONDS = 15  # and on a kernel that has died
DIE = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)


@pytest.fixture
def run(tmp_path):
    """`pytest --nbval` on a chapter of these cells: (exit code, all that it said)."""

    def run(*cells, guarded=True, seconds=CELL_SECONDS, what=".", **environment):
        write(tmp_path / CHAPTER, *cells)
        if guarded:
            shutil.copy(ROOT / "notebooks/conftest.py", tmp_path)
        options = ["--nbval-current-env", f"--nbval-cell-timeout={seconds}", "-p", "no:django"]
        ini = f"[pytest]\npythonpath = {ROOT / 'notebooks'}\n"  # not the checkout's own
        (tmp_path / "pytest.ini").write_text(ini)
        inherited = {name: text for name, text in os.environ.items() if "PYTEST" not in name}
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "--nbval", *options, what],
            cwd=tmp_path,
            env=inherited | environment,
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
    assert f"{CHAPTER}: " in said


def test_an_output_that_differs_fails(run):
    code, said = run(two(source="1 + 2"))
    assert code == 1, said


def test_a_kernel_that_dies_fails(run):
    died = new_code_cell(DIE, execution_count=2)
    code, said = run(two(1), died, two(3), two(4), seconds=DEAD_SECONDS)
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


def test_what_else_a_reader_has_in_the_folder_is_not_run(run, tmp_path):
    for place in (
        "Untitled.ipynb",
        "15_mine.ipynb",
        f".ipynb_checkpoints/{CHAPTER}",
        f"workspace/{CHAPTER}",
        "workspace/deeper/Untitled.ipynb",
    ):
        write(tmp_path / place, two(source="1 + 2"), two(None))
    (tmp_path / "Broken.ipynb").write_text("{")
    for place in ("test_mine.py", "workspace/test_mine.py", "workspace/conftest.py"):
        (tmp_path / place).write_text("1 / 0")
    code, said = run(two())
    assert code == 0, said
    assert "1 passed" in said


def test_a_notebook_that_is_named_is_run(run, tmp_path):
    write(tmp_path / "15_mine.ipynb", two(source="1 + 2"))
    code, said = run(what="15_mine.ipynb")
    assert code == 1, said
    assert "1 failed" in said


def test_the_settings_of_a_reader_do_no_harm(run, tmp_path):
    profile = tmp_path / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    setting = "c.InteractiveShell.ast_node_interactivity = 'none'"
    (profile / "ipython_config.py").write_text(f"c = get_config()\n{setting}\n")
    code, said = run(two(), IPYTHONDIR=str(tmp_path / "ipython"))
    assert code == 0, said


def git(folder, *arguments):
    who = ["-c", "user.name=A Reader", "-c", "user.email=reader@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def committed(tmp_path):
    """A checkout whose first two chapters are committed."""
    for chapter in chapters.CHAPTERS[:2]:
        write(tmp_path / chapter.file, two())
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "Chapters")
    return tmp_path


def test_a_chapter_that_fails_as_a_reader_left_it_is_named_with_what_restores_it(run, committed):
    code, said = run(two(source="1 + 2"))
    assert code == 1, said
    advice = chapters.how_to_restore(committed / CHAPTER)
    assert advice in said
    assert f"git restore --staged --worktree {committed.name}/{CHAPTER}" in advice
    assert "git restore" not in said.replace(advice, "")


def test_chapters_that_a_reader_changed_or_removed_are_known(committed):
    assert chapters.changed(committed) == []
    first, second = chapters.paths(committed)[:2]
    write(committed / "Untitled.ipynb", two())
    write(first, two(7))
    assert chapters.changed(committed) == [first]
    second.unlink()
    git(committed, "add", "--all")
    assert chapters.changed(committed) == [first, second]
    git(committed, "restore", "--staged", "--worktree", first.name, second.name)
    assert chapters.changed(committed) == []


def test_without_git_nobody_knows_what_was_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    write(tmp_path / CHAPTER, two())
    assert chapters.changed(tmp_path) == []
    monkeypatch.setenv("PATH", "")
    assert chapters.changed(tmp_path) == []
