"""The pages of the course: everything is on them, and they need no network."""

import re

import book
import pytest
from course import chapters


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "book"
    book.write_book(folder)
    return folder


def pages(folder):
    return [(path, path.read_text()) for path in folder.glob("**/*.html")]


def test_the_index_leads_to_each_chapter_with_its_question(folder):
    index = (folder / "index.html").read_text()
    for path in chapters.paths():
        assert f'href="{path.stem}.html"' in index
    assert "What are we going to build?" in index
    assert "<code>SynchronousOnlyOperation</code>" in index


def test_nothing_is_fetched_from_elsewhere(folder):
    for path, page in pages(folder):
        fetched = re.findall(r'<(?:link|img|script|iframe)\b[^>]*?(?:href|src)="([^"]+)"', page)
        local = [each for each in fetched if not each.startswith("data:")]
        assert all((path.parent / each).exists() for each in local), (path, local)
        assert "<script" not in page


def test_every_link_inside_the_book_leads_to_a_page(folder):
    for path, page in pages(folder):
        for target in re.findall(r'<a [^>]*href="([^"#:]+)(?:#[^"]*)?"', page):
            assert (path.parent / target).is_file(), (path.name, target)


def test_a_chapter_has_its_figures_outputs_and_folded_solution(folder):
    tour = (folder / "00_tour.html").read_text()
    assert tour.count("<svg") >= 3
    assert 'src="data:image/png;base64,' in tour
    assert "nothing left" in tour
    assert re.search(r'<details class="solution">.*?letters_to_the_room.*?</details>', tour, re.S)
    assert "<summary>Answer</summary>" in tour


def test_a_file_that_a_chapter_opens_is_a_page_with_its_source(folder):
    page = (folder / "source/chat/consumers.py.html").read_text()
    assert "class" in page
    assert 'href="../../book.css"' in page
