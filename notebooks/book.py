"""The course as pages to read: `make book`, static HTML in build/book, nothing from the network.

    python notebooks/book.py [FOLDER]

Chapters are taken as they are committed, with their outputs; nothing is run. Solutions and answers
are folded. A source file that a chapter links to becomes a page, too, so that a reader can follow
each link without a checkout. How a page looks is in `pages/`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import jinja2
import nbformat
from course.chapters import paths as chapter_paths
from markupsafe import Markup
from nbconvert import HTMLExporter
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
STYLE = "friendly"  # of Pygments: legible in grey
LARGEST = 200_000  # bytes of a source file that becomes a page

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def with_code(text: str) -> Markup:
    """`names` in a line of Markdown, as HTML."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))  # noqa: S704 - escaped


TEMPLATES.filters["with_code"] = with_code


@dataclass(frozen=True)
class Chapter:
    """What the list of chapters says about one: "01 · Sockets", its question, its page."""

    title: str
    question: str
    page: str


def main() -> None:
    folder = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "book"
    write_book(folder)
    print(f"{folder}/index.html")


def write_book(folder: Path) -> None:
    """All pages into `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = chapter_paths()
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    chapters = [about(notebook, path.stem) for notebook, path in zip(notebooks, paths, strict=True)]
    sources = Sources(folder)
    exporter = HTMLExporter(template_file="chapter.html.j2", extra_loaders=[TEMPLATES.loader])
    for number, (notebook, chapter) in enumerate(zip(notebooks, chapters, strict=True)):
        body, _ = exporter.from_notebook_node(notebook)
        neighbours = {
            "before": chapters[number - 1] if number else None,
            "after": chapters[number + 1] if number + 1 < len(chapters) else None,
        }
        body = relinked(body, lambda place: sources.page_of(HERE, place))
        write(folder / chapter.page, "page.html.j2", title=chapter.title, body=body, **neighbours)
    index = TEMPLATES.get_template("index.html.j2").render(chapters=chapters)
    write(folder / "index.html", "page.html.j2", title="Thyme, a course", body=index)
    colours = HtmlFormatter(style=STYLE).get_style_defs(".highlight")
    (folder / "book.css").write_text((HERE / "pages" / "book.css").read_text() + colours)


def about(notebook: nbformat.NotebookNode, stem: str) -> Chapter:
    """Of a chapter's first cell: its heading, and the question in bold."""
    first = notebook.cells[0].source
    heading, question = re.match(r"# (.+)", first), re.search(r"^\*\*(.+\?)\*\*$", first, re.M)
    return Chapter(heading[1] if heading else stem, question[1] if question else "", f"{stem}.html")


def relinked(body: str, page_of: Callable[[str], str]) -> str:
    """`body` with its relative links leading to pages of the book."""

    def relink(found: re.Match[str]) -> str:
        place, hash_, anchor = found[1].partition("#")
        if not place or re.match(r"[a-z]+:", place):
            return found[0]
        return f'href="{page_of(place)}{hash_}{anchor}"'

    return re.sub(r'href="([^"]*)"', relink, body)


class Sources:
    """Pages of the source files that chapters link to, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: set[str] = set()

    def page_of(self, here: Path, place: str) -> str:
        """The page, seen from the root of the book, for a link `place` in a file of `here`."""
        target = Path(os.path.normpath(here / place))
        if target.parent == HERE and target.suffix == ".ipynb":
            return f"{target.stem}.html"
        name = str(target.relative_to(ROOT))
        page = f"source/{name}.html"
        if page not in self._made:
            self._made.add(page)
            body = self._listing(target) if target.is_dir() else coloured(target)
            up = "../" * page.count("/")
            body = f"<h1>{escape(name)}</h1>\n{body}"
            write(self._folder / page, "page.html.j2", title=name, body=body, up=up)
        return page

    def _listing(self, target: Path) -> str:
        files = [each for each in sorted(target.iterdir()) if is_source(each)]
        up = "../" * (1 + str(target.relative_to(ROOT)).count("/"))
        links = [f'{up}{self.page_of(target, each.name)}">{escape(each.name)}' for each in files]
        return "<ul>" + "\n".join(f'<li><a href="{link}</a></li>' for link in links) + "</ul>"


def is_source(path: Path) -> bool:
    hidden = path.name.startswith((".", "__pycache__"))
    return path.is_file() and not hidden and path.stat().st_size < LARGEST


def coloured(path: Path) -> str:
    """A source file as HTML."""
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(path.read_text(), lexer, HtmlFormatter(linenos="inline", lineanchors="line"))


def write(path: Path, template: str, **words: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    words = {"up": "", "before": None, "after": None} | words
    path.write_text(TEMPLATES.get_template(template).render(words))


if __name__ == "__main__":
    main()
