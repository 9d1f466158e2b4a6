"""The documents: their links lead somewhere, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_project import ROOT, python_files

DOCS = ROOT / "docs"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / name for name in ("bench/README.md", "notebooks/README.md")),
    *sorted(DOCS.glob("*.md")),
]
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"\]\(\s*([^)\s]+)\s*\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
NAMED_TEST = re.compile(r"`(test_\w+)`")
NAMED_FILE = re.compile(r"`((?:thyme|gredis|chat|multichat|tests|bench|notebooks)/[\w./]*)`")

WRITTEN = {"bench/out/"}
"""Folders that exist once a program has written there."""


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def prose(document: Path) -> str:
    """The document without code, in blocks or between backticks."""
    return re.sub(r"`[^`\n]*`", "", FENCED.sub("", document.read_text()))


def anchors(document: Path) -> set[str]:
    """The fragments that GitHub makes of a document's headings."""
    headings = HEADING.findall(FENCED.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_resolve(document):
    broken = []
    for target in LINK.findall(prose(document)):
        if re.match(r"\w+:", target):
            continue
        path, _, fragment = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        if not there.exists() or (fragment and fragment not in anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_pictures_have_alternative_text(document):
    assert not re.search(r"!\[\s*\]\(", document.read_text())


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_test_that_a_document_names_exists(document):
    texts = [path.read_text() for path in python_files(ROOT / "tests", "test_*.py")]
    named = set(NAMED_TEST.findall(document.read_text()))
    assert {name for name in named if not any(f"def {name}(" in text for text in texts)} == set()


def test_each_guarantee_names_a_test():
    """Rows of the tables, but heads, and what is marked with "–": a limit, not a promise."""
    rows = re.findall(r"^\|.*\|$", (DOCS / "guarantees.md").read_text(), re.M)
    assert len(rows) > 50
    heads = {rows[place - 1] for place, row in enumerate(rows) if set(row) <= set("|-")}
    bare = [row for row in rows if "`test_" not in row and not set(row) <= set("|-")]
    assert [row for row in bare if row not in heads and not row.endswith("| – |")] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_file_that_a_document_names_exists(document):
    if document.name == "CHANGELOG.md":
        return  # it tells of the past
    named = set(NAMED_FILE.findall(document.read_text())) - WRITTEN
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_each_term_stands_once_in_the_glossary():
    rows = re.findall(r"^\| ([^|]+) \|", (DOCS / "glossary.md").read_text(), re.M)
    terms = [row for row in rows if row != "term"]
    assert len(terms) > 50
    assert sorted(terms) == sorted(set(terms))


def test_each_term_names_its_chapter_and_its_module():
    for row in re.findall(r"^\| .+ \|$", (DOCS / "glossary.md").read_text(), re.M):
        if not row.startswith("| term "):
            assert re.search(r"\]\(\.\./notebooks/\d\d_\w+\.ipynb\) \| `[\w/]+\.py` \|$", row), row


def test_the_gunicorn_configuration_is_the_one_that_is_tested():
    from tests.thyme.loop.test_gunicorn import CONFIGURATION

    assert f"```python\n{CONFIGURATION}```" in (DOCS / "gevent.md").read_text()


def test_the_readme_leads_to_each_document():
    readme = (ROOT / "README.md").read_text()
    assert [
        name for path in DOCS.glob("*.md") if f"](docs/{(name := path.name)})" not in readme
    ] == []


def walks() -> list[tuple[str, str]]:
    """Each file of a sequence diagram, and a function that the diagram says is called there."""
    found = []
    diagrams = re.findall(
        r"```mermaid\nsequenceDiagram\n(.*?)```", (DOCS / "architecture.md").read_text(), re.S
    )
    for diagram in diagrams:
        files = dict(re.findall(r"participant (\w+) as (.+)", diagram))
        for there, text in re.findall(r"\w+-+>>(\w+): (.*)", diagram):
            file = files[there].replace("<br/>", "")
            found += [(file, name) for name in re.findall(r"\b(\w+)\(", text)]
    return sorted(set(found))


@pytest.mark.parametrize(("file", "function"), walks())
def test_the_walks_name_functions_that_exist(file, function):
    assert re.search(rf"def {function}\b", (ROOT / file).read_text())


def test_there_are_walks():
    assert len(walks()) > 30
