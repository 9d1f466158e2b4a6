"""Every chapter follows every rule of the course (`rules.py`)."""

from functools import cache

import pytest

from tests.notebooks.rules import ROOT, RULES, Chapter

PATHS = sorted((ROOT / "notebooks").glob("**/*.ipynb"))
read = cache(Chapter.read)


def test_there_is_a_course():
    assert "00_tour.ipynb" in [path.name for path in PATHS]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_chapter(path, rule):
    assert list(rule(read(path))) == []


def test_the_chapters_are_numbered_without_gaps():
    assert [int(path.name[:2]) for path in PATHS] == list(range(15))


def test_each_chapter_has_its_place_on_the_map_of_the_course():
    text = (ROOT / "notebooks/course/figures.py").read_text()
    names = text.partition("CHAPTERS = (")[2].partition("\n)")[0]
    assert names.count('"') / 2 == len(PATHS)
