"""The sprig: the program that readers write cell by cell, each chapter on top of the ones before.

    from course.sprig import begin
    workspace = begin(8)        write the sprig of the saved chapters 01 to 07 into build/sprig/08

    %%sprig http.py             a cell that is this file of the package `sprig`
    %%sprig http.py 2/4         … or the second of its four parts; the last one writes the file

The notebooks are the only copy: whatever a reader has changed in an earlier chapter, and saved, is
carried along. From a shell, with notebooks/ on the path:

    python -m course.sprig --upto 8 FOLDER      the sprig as of the end of chapter 08
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from course.chapters import paths
from course.programs import Program
from course.scratch import ROOT

NOTEBOOKS = ROOT / "notebooks"
WORKSPACES = ROOT / "build" / "sprig"  # git ignores build/
PACKAGE = "sprig"
CELL = re.compile(r"%%sprig +(?P<file>[\w/]+\.(?:py|lua))(?: +(?P<number>\d+)/(?P<total>\d+))? *\n")


class SprigError(Exception):
    """A cell of the sprig cannot be used; the message says why, and what to do."""


@dataclass(frozen=True)
class Part:
    """What one cell says: the part `number` of `total` of a file."""

    file: str
    number: int
    total: int
    text: str

    @classmethod
    def parse(cls, source: str) -> Part | None:
        """Return the part that a cell defines, or None if it is another kind of cell."""
        found = CELL.match(source)
        if found is None:
            if source.startswith("%%sprig"):
                raise SprigError(f"write '%%sprig FILE' or '%%sprig FILE 1/2': {source[:60]!r}")
            return None
        number, total = int(found["number"] or 1), int(found["total"] or 1)
        if not 1 <= number <= total:
            raise SprigError(f"{found['file']}: there is no part {number} of {total}")
        return cls(found["file"], number, total, source[found.end() :].strip("\n"))


def join(parts: list[Part]) -> str:
    """Return a file's text: two empty lines between its parts, one inside a class."""
    text = ""
    for part in parts:
        gap = "" if not text else "\n" if part.text.startswith(" ") else "\n\n"
        text += gap + part.text + "\n"
    return text


def check(file: str, text: str) -> None:
    """Raise SprigError if a Python file does not compile."""
    if file.endswith(".py"):
        try:
            ast.parse(text, file)
        except SyntaxError as error:
            raise SprigError(f"{file}, line {error.lineno}: {error.msg}") from error


# --- from notebooks to a package ------------------------------------------------------------


def chapters(first: int, last: int) -> list[Path]:
    """Return the paths of the saved chapters with these numbers, in order."""
    saved = [path for path in paths(NOTEBOOKS) if path.exists()]
    return [path for path in saved if first <= int(path.name[:2]) <= last]


def parts_of(notebook: Path) -> Iterator[Part]:
    """Yield what the cells of a saved chapter write; solutions of exercises are left out."""
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code" and "solution" not in cell["metadata"].get("tags", []):
            part = Part.parse("".join(cell["source"]))
            if part is not None:
                yield part


def files_of(notebook: Path) -> dict[str, str]:
    """Return the files that a chapter writes, with their text."""
    parts: dict[str, list[Part]] = {}
    for part in parts_of(notebook):
        mine = parts.setdefault(part.file, [])
        if part.number == 1:
            mine.clear()
        if part.number != len(mine) + 1:
            raise SprigError(f"{notebook.name}: {part.file} has no part {len(mine) + 1}")
        mine.append(part)
    for file, mine in parts.items():
        if len(mine) != mine[0].total:
            raise SprigError(f"{notebook.name}: {file} has {len(mine)} of {mine[0].total} parts")
        check(file, join(mine))
    return {file: join(mine) for file, mine in parts.items()}


def files_upto(last: int) -> dict[str, str]:
    """Return the files of the sprig as of the end of a chapter; the latest version of each."""
    files: dict[str, str] = {}
    for notebook in chapters(1, last):
        files |= files_of(notebook)
    return dict(sorted(files.items()))


def assemble(last: int, folder: Path) -> dict[str, str]:
    """Write the package as of the end of a chapter into `folder`; return its files."""
    files = files_upto(last)
    shutil.rmtree(folder / PACKAGE, ignore_errors=True)
    for file, text in files.items():
        write(folder, file, text)
    return files


def write(folder: Path, file: str, text: str) -> None:
    """Write one file of the package."""
    path = folder / PACKAGE / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def count_lines(text: str) -> int:
    """Return how many lines are not blank."""
    return sum(bool(line.strip()) for line in text.splitlines())


# --- what a chapter uses --------------------------------------------------------------------


class Change:
    """What a cell has done: one line, and for a file that it replaced the difference, folded."""

    def __init__(self, file: str, before: str | None, after: str) -> None:
        lines = difflib.unified_diff(
            (before or "").splitlines(), after.splitlines(), lineterm="", n=1
        )
        self.diff = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        added = sum(line.startswith("+") for line in self.diff)
        removed = sum(line.startswith("-") for line in self.diff)
        self.summary = f"{file}: {len(after.splitlines())} lines"
        self.replaced = before is not None
        if self.replaced:
            self.summary += f", {added} of them new, {removed} gone"

    def __repr__(self) -> str:
        return self.summary

    def _repr_html_(self) -> str:
        if not self.replaced or not self.diff:
            return f"<code>{escape(self.summary)}</code>"
        diff = escape("\n".join(self.diff))
        return f"<details><summary><code>{self.summary}</code></summary><pre>{diff}</pre></details>"


class Workspace:
    """The reader's package at `path`, in the middle of a chapter.

    It begins as of the end of the chapter before, or of `last`.
    """

    def __init__(self, chapter: int, path: Path | None = None, last: int | None = None) -> None:
        self.chapter = chapter
        self.path = path or WORKSPACES / f"{chapter:02}"
        self.before = assemble(chapter - 1 if last is None else last, self.path)
        self.files = dict(self.before)
        self._parts: dict[str, dict[int, Part]] = {}

    def __repr__(self) -> str:
        lines = sum(len(text.splitlines()) for text in self.files.values())
        return f"The sprig: {len(self.files)} files, {lines} lines"

    def add(self, part: Part) -> Change | None:
        """Take a cell. Write the file, and return the change, when its last part has come."""
        parts = self._parts.setdefault(part.file, {})
        parts[part.number] = part
        known = [parts[number] for number in range(1, part.total + 1) if number in parts]
        if part.number != part.total:
            check(part.file, join([each for each in known if each.number <= part.number]))
            return None
        if len(known) != part.total:
            missing = sorted({*range(1, part.total + 1)} - parts.keys())
            raise SprigError(f"{part.file}: run the cells with the parts {missing} first")
        text = join(known)
        check(part.file, text)
        write(self.path, part.file, text)
        self.files[part.file] = text
        forget_modules()
        return Change(part.file, self.before.get(part.file), text)

    def run(self, *arguments: str, **environment: str) -> Program:
        """Run `python -m sprig ARGUMENTS` as a child process, in the root of the checkout."""
        places = os.pathsep.join([str(self.path), str(ROOT)])
        inherited = {**os.environ, "PYTHONPATH": places, **environment}
        return Program("-m", PACKAGE, *arguments, env=inherited)

    def serve(self, *arguments: str, **environment: str) -> tuple[Program, str]:
        """Run a server on a free port; return it and its URL."""
        program = self.run(*arguments, "--port", "0", **environment)
        return program, program.line(r"http://\S+")[0]


def forget_modules() -> None:
    """Let the next import of the package read its files again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def begin(chapter: int) -> Workspace:
    """Return the workspace of a chapter, with the sprig of all chapters before; add the magic."""
    workspace = Workspace(chapter)
    forget_modules()
    sys.path[:] = [place for place in sys.path if Path(place).parent != WORKSPACES]
    sys.path.insert(0, str(workspace.path))
    register(workspace)
    return workspace


def register(workspace: Workspace) -> None:
    """Make `%%sprig` write into this workspace; without IPython, do nothing."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython
    from IPython.core.error import UsageError

    def magic(line: str, cell: str) -> Any:
        """Write a file of the sprig, or a part of it."""
        try:
            return workspace.add(Part.parse(f"%%sprig {line}\n{cell}"))
        except SprigError as error:
            raise UsageError(str(error)) from None

    if (shell := get_ipython()) is not None:
        shell.register_magic_function(magic, "cell", "sprig")


def main() -> None:
    """Assemble the sprig from a shell."""
    parser = argparse.ArgumentParser(
        prog="python -m course.sprig",
        description="Write the sprig, as of the end of a chapter, into a folder.",
    )
    parser.add_argument("--upto", type=int, required=True, metavar="N", help="the chapter")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    for file, text in assemble(options.upto, options.folder).items():
        print(f"{len(text.splitlines()):5}  {options.folder / PACKAGE / file}")


if __name__ == "__main__":
    main()
