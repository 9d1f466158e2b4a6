"""Execute chapters and keep what their cells print: `make notebooks`, or this file with chapters.

    python notebooks/execute.py                  all chapters
    python notebooks/execute.py 00_tour.ipynb    one of them

A committed chapter is an executed one: outputs and counts are what `pytest --nbval` compares with.
They come from here and never from a hand. What only says when and where it ran (times, the version
of Python) is dropped. A chapter that raises is left as it was. How a chapter is written: README.md.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from course import chapters
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # no date in what matplotlib draws
CELL_SECONDS = 180  # as in pyproject.toml, for nbval
ABOUT_THE_RUN = ("execution", "collapsed", "scrolled")  # metadata of cells


def main() -> None:
    wanted = [HERE / Path(name).name for name in sys.argv[1:]] or chapters.paths()
    for chapter in wanted:
        began = time.monotonic()
        execute(chapter)
        print(f"{chapter.name}: {time.monotonic() - began:.1f} s")


def execute(path: Path) -> None:
    """Run a chapter in a new kernel and write it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
    ).execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for name in ABOUT_THE_RUN:
            cell.metadata.pop(name, None)
    path.write_text(nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    main()
