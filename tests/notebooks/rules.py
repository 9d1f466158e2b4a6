"""What every chapter of the course must have, as functions: a chapter in, complaints out.

These rules read committed notebooks, they run nothing. That each output is still what its cell
prints is nbval's work, and that nbval skips nothing that of the guard (`notebooks/conftest.py`).
Together: an exercise's check shows False after the stub and True after the solution, and has just
been run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import nbformat
from course.chapters import CHAPTERS
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]

CELLS = range(60, 151)  # the sprig is added; second halves of chapters will give way to it
WORDS = range(1500, 3001)
LINES = 25  # of one code cell
MEDIAN_LINES = 8  # of a chapter's code cells: most are a few lines
OPENING_LINES = 6  # of what the reader needs, builds and learns
REMEMBER = range(3, 6)
QUESTIONS = 3
EXERCISES = range(1, 3)
SLEEP = 0.2  # seconds a cell may sleep at a time
OURS = ("thyme", "gredis", "chat", "multichat")
IGNORED = 0.05  # part of the code cells whose output may go uncompared

Complaints = Iterator[str]


@dataclass(frozen=True)
class Chapter:
    """A notebook and where it is."""

    path: Path
    notebook: NotebookNode

    @classmethod
    def read(cls, path: Path) -> Chapter:
        return cls(path, nbformat.read(path, as_version=4))

    @property
    def number(self) -> int:
        return int(self.path.name[:2])

    @property
    def cells(self) -> list[NotebookNode]:
        return self.notebook.cells

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @property
    def prose(self) -> str:
        return "\n\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")

    @property
    def outputs(self) -> list[NotebookNode]:
        return [output for cell in self.code for output in cell.outputs]

    def section(self, heading: str) -> str:
        """The prose from a heading of the second level to the next; empty if there is none."""
        found = re.search(rf"^## {heading}\b.*?(?=^## |\Z)", self.prose, re.M | re.S)
        return found[0] if found else ""

    def tagged(self, tag: str) -> list[NotebookNode]:
        return [cell for cell in self.code if tag in cell.metadata.get("tags", [])]


def shown(cell: NotebookNode) -> str:
    """The last thing a cell has shown, as text."""
    if not cell.outputs:
        return ""
    last = cell.outputs[-1]
    return str(last.get("text") or last.get("data", {}).get("text/plain", "")).strip()


def has_tag(cell: NotebookNode, name: str) -> bool:
    """As nbval sees it: a tag, or a comment in capitals."""
    comment = name.upper().replace("-", "_")
    return name in cell.metadata.get("tags", []) or f"# {comment}" in cell.source


# --- the rules ----------------------------------------------------------------------------


def opens_with_one_question(chapter: Chapter) -> Complaints:
    first = chapter.cells[0].source
    if not first.startswith(f"# {chapter.number:02} · "):
        yield f"the first cell should begin with '# {chapter.number:02} · '"
    if len(re.findall(r"^\*\*.+\?\*\*$", first, re.M)) != 1:
        yield "the first cell should have one question, bold, on a line of its own"


def says_what_it_takes_and_gives(chapter: Chapter) -> Complaints:
    wanted = [f"**You will {verb}**" for verb in ("need", "build", "learn")]
    blocks = [cell.source for cell in chapter.cells[:4] if "**You will" in cell.source]
    if len(blocks) != 1 or not all(words in blocks[0] for words in wanted):
        yield "among the first four cells one should say: You will need, build, learn"
    elif len(blocks[0].strip().splitlines()) > OPENING_LINES:
        yield f"what you will need, build and learn takes more than {OPENING_LINES} lines"


def says_where_you_are(chapter: Chapter) -> Complaints:
    here = f"you_are_here({chapter.number})"
    if not any(here in cell.source for cell in chapter.cells[:5]):
        yield f"among the first five cells one should draw figures.{here}"


def can_be_read_in_one_sitting(chapter: Chapter) -> Complaints:
    if len(chapter.cells) not in CELLS:
        yield f"{len(chapter.cells)} cells, expected {CELLS[0]} to {CELLS[-1]}"
    if (words := len(chapter.prose.split())) not in WORDS:
        yield f"{words} words, expected {WORDS[0]} to {WORDS[-1]}"


def has_short_cells(chapter: Chapter) -> Complaints:
    for cell in chapter.code:
        if (length := len(cell.source.splitlines())) > LINES:
            yield f"{length} lines, at most {LINES}: {cell.source[:60]!r}"
    # A part of a file is as long as a class or two functions; what drives it should be short.
    lengths = [len(c.source.splitlines()) for c in chapter.code if not writes_a_file(c.source)]
    if lengths and median(lengths) > MEDIAN_LINES:
        yield f"the median cell has {median(lengths):g} lines, at most {MEDIAN_LINES}"


def was_executed_from_top_to_bottom(chapter: Chapter) -> Complaints:
    counts = [cell.execution_count for cell in chapter.code]
    if counts != list(range(1, len(counts) + 1)):
        yield "the cells' counts are not 1, 2, 3 …: run `make notebooks`"
    if not chapter.outputs:
        yield "no cell has an output: run `make notebooks`"
    for cell in chapter.code:
        raised = any(output.output_type == "error" for output in cell.outputs)
        if raised and not has_tag(cell, "raises-exception"):
            yield f"this cell raises: {cell.source[:60]!r}"


def has_no_traces_of_the_run(chapter: Chapter) -> Complaints:
    """When and where it ran would change with every execution."""
    if str(ROOT) in nbformat.writes(chapter.notebook):
        yield "the path of a checkout is in it"
    if any("execution" in cell.metadata for cell in chapter.code):
        yield "it has timing metadata: run `make notebooks`"


def compares_nearly_all_outputs(chapter: Chapter) -> Complaints:
    ignored = [cell for cell in chapter.code if has_tag(cell, "nbval-ignore-output")]
    if len(ignored) > IGNORED * len(chapter.code):
        yield f"{len(ignored)} of {len(chapter.code)} cells ignore their output"
    for cell in ignored:
        before = chapter.cells[chapter.cells.index(cell) - 1]
        if before.cell_type != "markdown" or "not compared" not in before.source:
            yield f"no sentence before it says why it is not compared: {cell.source[:60]!r}"
    for cell in chapter.code:
        if has_tag(cell, "nbval-skip"):
            yield f"nbval would skip it: {cell.source[:60]!r}"


def is_a_good_guest(chapter: Chapter) -> Complaints:
    """No patched kernel, no installing, no fixed port, no long sleep."""
    for cell in chapter.code:
        if writes_a_file(cell.source):
            continue  # nothing of it happens in the kernel
        for problem in bad_manners(cell.source):
            yield f"{problem}: {cell.source[:60]!r}"


def bad_manners(source: str) -> Complaints:
    if "patch_all" in source:
        yield "patch_all() wedges the kernel"
    if re.search(r"\bpip3?\b", source):
        yield "a chapter installs nothing"
    if re.search(r"(localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\]):[1-9]", source):
        yield "a fixed port"
    if re.search(
        r"""--port[=\s"',]+[1-9]|\bport\s*=\s*[1-9]|(["'])[\w.]*\1,\s*[1-9]\d{3,4}\)""", source
    ):
        yield "a fixed port"
    for node in ast.walk(ast.parse(plain(source))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep":
            for argument in node.args[:1]:
                if not isinstance(argument, ast.Constant) or argument.value > SLEEP:
                    yield f"sleeps longer than {SLEEP} s, or nobody knows how long"


def writes_a_file(source: str) -> bool:
    """Return True for a cell of the sprig."""
    return source.startswith("%%sprig ")


def plain(source: str) -> str:
    """Without IPython's own lines and the files of the sprig, with `await` where it may stand."""
    if writes_a_file(source):
        return ""
    lines = ["pass" if line.startswith(("%", "!")) else line for line in source.splitlines()]
    return "\n".join(lines)


def draws(chapter: Chapter) -> Complaints:
    """A figure beside the map of chapters, and something measured."""
    kinds = [kind for output in chapter.outputs for kind in output.get("data", {})]
    if kinds.count("image/svg+xml") < 2:
        yield "no figure made by code (SVG), beside the one that says where you are"
    if "image/png" not in kinds and "text/html" not in kinds:
        yield "nothing measured: no plot (PNG) and no table (HTML)"


def shows_the_real_code(chapter: Chapter) -> Complaints:
    if not any("inspect.getsource(" in cell.source for cell in chapter.code):
        yield "no cell shows the real code with inspect.getsource"


def leads_to_the_files_it_shows(chapter: Chapter) -> Complaints:
    """And back: a module says in its docstring in which chapter it is taught."""
    for module in sorted(shown_modules(chapter)):
        path = ROOT / (module.replace(".", "/") + ".py")
        if not path.exists():
            path = path.with_suffix("") / "__init__.py"
        place = path.relative_to(ROOT)
        if f"](../{place})" not in chapter.prose:
            yield f"it shows {place} and has no link to ../{place}"
        if chapter.path.name not in (ast.get_docstring(ast.parse(path.read_text())) or ""):
            yield f"{place} does not say: Taught in notebooks/{chapter.path.name}"


def shown_modules(chapter: Chapter) -> set[str]:
    """The modules of this repository from which `inspect.getsource` shows something."""
    tree = ast.parse("\n".join(plain(cell.source) for cell in chapter.code))
    homes = {}  # a name in the notebook ► the module where it comes from
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                is_module = (ROOT / (inside.replace(".", "/") + ".py")).exists()
                homes[alias.asname or alias.name] = inside if is_module else node.module
        elif isinstance(node, ast.Import):
            homes.update({alias.asname or alias.name: alias.name for alias in node.names})
    shown = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "inspect.getsource":
            argument = ast.unparse(node.args[0])
            inside = [name for name in homes if f"{argument}.".startswith(f"{name}.")]
            shown |= {homes[name] for name in inside}
    return {module for module in shown if module.split(".")[0] in OURS}


def ends_with_what_to_remember(chapter: Chapter) -> Complaints:
    lines = re.findall(r"^- ", chapter.section("Remember"), re.M)
    if len(lines) not in REMEMBER:
        yield f"{len(lines)} lines under '## Remember', expected 3 to 5"


def asks_questions(chapter: Chapter) -> Complaints:
    answers = re.findall(r"<details>.+?</details>", chapter.section("Quiz"), re.S)
    if len(answers) != QUESTIONS:
        yield f"{len(answers)} folded answers under '## Quiz', expected {QUESTIONS}"


def has_an_exercise_that_can_be_done(chapter: Chapter) -> Complaints:
    """Cells tagged exercise, check and solution; the last two end with what the check says."""
    found = [chapter.tagged(tag) for tag in ("exercise", "check", "solution")]
    one_of_each = len({len(cells) for cells in found}) == 1 and len(found[0]) in EXERCISES
    if not chapter.section("Exercise") or not one_of_each:
        yield "expected '## Exercise' and one cell of each tag (or two): exercise, check, solution"
        return
    for _, check, solution in zip(*found, strict=True):
        if shown(check) != "False":
            yield f"the stub should fail the check (False), which says {shown(check)!r}"
        if shown(solution) != "True":
            yield f"the solution should pass the check (True), which says {shown(solution)!r}"
        if not solution.metadata.get("jupyter", {}).get("source_hidden"):
            yield "the solution is not folded (jupyter: source_hidden)"


def leaves_nothing(chapter: Chapter) -> Complaints:
    teardown = chapter.tagged("teardown")
    if len(teardown) != 1 or teardown[0] is not chapter.code[-1]:
        yield "the last code cell, and only this, should have the tag teardown"
    elif "assert " not in teardown[0].source:
        yield "the teardown asserts nothing"


def leads_on(chapter: Chapter) -> Complaints:
    last = chapter.cells[-1]
    if last.cell_type != "markdown" or "**Next:**" not in last.source:
        yield "the last cell should say what comes next, after **Next:**"
    for following in CHAPTERS[chapter.number + 1 : chapter.number + 2]:
        ends = "](../README.md)" in last.source  # written as the last chapter
        if f"]({following.file})" not in last.source and not ends:
            yield f"**Next:** should link to {following.file}, or end the course with ../README.md"


def has_links_that_resolve(chapter: Chapter) -> Complaints:
    for target in re.findall(r"\]\(([^)\s]+)\)", chapter.prose):
        place = target.partition("#")[0]
        if re.match(r"https?://|#", target) or (chapter.path.parent / place).exists():
            continue
        yield f"the link {target} leads nowhere"


RULES: list[Callable[[Chapter], Complaints]] = [
    opens_with_one_question,
    says_what_it_takes_and_gives,
    says_where_you_are,
    can_be_read_in_one_sitting,
    has_short_cells,
    was_executed_from_top_to_bottom,
    has_no_traces_of_the_run,
    compares_nearly_all_outputs,
    is_a_good_guest,
    draws,
    shows_the_real_code,
    leads_to_the_files_it_shows,
    ends_with_what_to_remember,
    asks_questions,
    has_an_exercise_that_can_be_done,
    leaves_nothing,
    leads_on,
    has_links_that_resolve,
]
