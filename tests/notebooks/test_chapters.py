"""Every chapter follows every rule of the course (`rules.py`)."""

import subprocess
from functools import cache

import pytest
from course import chapters

from tests.notebooks.rules import ROOT, RULES, Chapter

read = cache(Chapter.read)


@pytest.mark.parametrize("path", chapters.paths(), ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_chapter(path, rule):
    assert list(rule(read(path))) == []


def test_the_chapters_are_numbered_without_gaps():
    numbers = [chapter.file[:3] for chapter in chapters.CHAPTERS]
    assert numbers == [f"{number:02}_" for number in range(len(numbers))]


def test_every_committed_notebook_is_on_the_list_of_chapters():
    """A reader's notebooks are not committed; a new chapter that nobody listed would never run."""
    command = ["git", "ls-files", "notebooks/*.ipynb"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("no git here")
    paths = {str(path.relative_to(ROOT)) for path in chapters.paths()}
    assert set(listed.stdout.splitlines()) - paths == set()
