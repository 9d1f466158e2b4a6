"""The rules notice what they are for: each is given a chapter that breaks it, and complains."""

from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks import rules
from tests.notebooks.rules import Chapter

OPENING = "- **You will need** a.\n- **You will build** b.\n- **You will learn** c."
CLOSING = """
## Remember

- a
- b
- c

## Quiz

<details>1</details>
<details>2</details>
<details>3</details>

## Exercise
"""


ERROR = new_output("error", ename="", evalue="", traceback=[])


def data(**kinds):
    return new_output("display_data", data={k.replace("_", "/"): v for k, v in kinds.items()})


def code(source, *outputs, tags=(), **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags), **metadata})


def good():
    """The cells of a chapter with which every rule is content."""
    svg, text = {"image/svg+xml": "<svg/>"}, "text/plain"
    figure = new_output("display_data", data=svg)
    says = [new_output("execute_result", data={text: word}) for word in ("False", "True")]
    return [
        new_markdown_cell("# 00 · Name\n\n**What is it?**\n\n[link](other.md)"),
        new_markdown_cell(OPENING),
        code("figures.you_are_here(0)", figure),
        *(new_markdown_cell("word " * 32) for _ in range(50)),
        code("print(inspect.getsource(thing))", figure, data(image_png="")),
        new_markdown_cell("Today's numbers are not compared."),
        *(code("time.sleep(0.2)") for _ in range(20)),
        new_markdown_cell(CLOSING),
        code("...", tags=["exercise"]),
        code("passes(stub)", says[0], tags=["check"]),
        code("passes(answer)", says[1], tags=["solution"], jupyter={"source_hidden": True}),
        code("assert not left", tags=["teardown"]),
        new_markdown_cell("**Next:** [more](01_sockets.ipynb)."),
    ]


def chapter(cells, folder=Path("nowhere")):
    counted = [cell for cell in cells if cell.cell_type == "code"]
    for count, cell in enumerate(counted, 1):
        cell.execution_count = None if "uncounted" in cell.metadata.tags else count
    return Chapter(folder / "00_name.ipynb", new_notebook(cells=cells))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "other.md").touch()
    (tmp_path / "01_sockets.ipynb").touch()
    return tmp_path


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_good_chapter_follows(rule, folder):
    assert list(rule(chapter(good(), folder))) == []


def without(*wanted):
    """Removes the cells in which one of these texts is."""
    return lambda cells: [cell for cell in cells if not any(text in cell.source for text in wanted)]


def replacing(old, new):
    def change(cells):
        for cell in cells:
            cell.source = cell.source.replace(old, new)
        return cells

    return change


def adding(*new):
    """Adds cells before the teardown."""
    return lambda cells: [*cells[:-2], *new, *cells[-2:]]


def changing(text, **attributes):
    def change(cells):
        for cell in cells:
            if text in cell.source and cell.cell_type == "code":
                cell.update(attributes)
        return cells

    return change


BROKEN = [
    (rules.opens_with_one_question, replacing("# 00", "# 01")),
    (rules.opens_with_one_question, replacing("?**", ".**")),
    (rules.says_what_it_takes_and_gives, replacing("**You will build** b", "nothing")),
    (rules.says_what_it_takes_and_gives, replacing("a.\n", "a" + "\n" * 6)),
    (rules.says_where_you_are, replacing("here(0)", "here(3)")),
    (rules.can_be_read_in_one_sitting, adding(*(code("1") for _ in range(90)))),
    (rules.can_be_read_in_one_sitting, without("word")),
    (rules.has_short_cells, adding(code("\n" * 25 + "1"))),
    (rules.has_short_cells, replacing("time.sleep(0.2)", "1\n" * 9)),
    (rules.was_executed_from_top_to_bottom, adding(code("1", tags=["uncounted"]))),
    (rules.was_executed_from_top_to_bottom, changing("", outputs=[])),
    (
        rules.was_executed_from_top_to_bottom,
        adding(code("1", ERROR)),
    ),
    (rules.has_no_traces_of_the_run, adding(code(f"open('{rules.ROOT}/x')"))),
    (rules.has_no_traces_of_the_run, adding(code("1", execution={"begun": "today"}))),
    (rules.compares_nearly_all_outputs, adding(code("1", tags=["nbval-ignore-output"]))),
    (rules.compares_nearly_all_outputs, replacing("time.sleep", "# NBVAL_IGNORE_OUTPUT\ntime")),
    (rules.compares_nearly_all_outputs, adding(code("# NBVAL_SKIP\n1"))),
    (rules.is_a_good_guest, adding(code("monkey.patch_all()"))),
    (rules.is_a_good_guest, adding(code("%pip install x"))),
    (rules.is_a_good_guest, adding(code("fetch('http://127.0.0.1:8000/')"))),
    (rules.is_a_good_guest, adding(code("run(['--port', '8000'])"))),
    (rules.is_a_good_guest, adding(code("listener.bind(('', 8000))"))),
    (rules.is_a_good_guest, adding(code("serve(port=8000)"))),
    (rules.is_a_good_guest, replacing("0.2", "0.3")),
    (rules.is_a_good_guest, replacing("0.2", "later")),
    (rules.draws, without("you_are_here")),
    (rules.shows_the_real_code, without("inspect")),
    (
        rules.leads_to_the_files_it_shows,
        adding(code("from thyme import cli\ninspect.getsource(cli.main)")),
    ),
    (
        rules.leads_to_the_files_it_shows,
        adding(code("from gredis import Letter as L\ninspect.getsource(L)")),
    ),
    (rules.ends_with_what_to_remember, replacing("- b\n- c", "b, c")),
    (rules.asks_questions, replacing("<details>3</details>", "3")),
    (rules.has_an_exercise_that_can_be_done, without("passes(answer)")),
    (rules.has_an_exercise_that_can_be_done, changing("passes(stub)", outputs=[])),
    (rules.has_an_exercise_that_can_be_done, changing("passes(answer)", outputs=[])),
    (rules.has_an_exercise_that_can_be_done, replacing("## Exercise", "Exercise")),
    (rules.leaves_nothing, replacing("assert ", "")),
    (rules.leaves_nothing, lambda cells: [*cells, code("1")]),
    (rules.leads_on, without("Next")),
    (rules.leads_on, replacing("01_sockets.ipynb", "other.md")),
    (rules.has_links_that_resolve, replacing("other.md", "another.md")),
]


@pytest.mark.parametrize(("rule", "change"), BROKEN)
def test_what_breaks_a_rule_is_noticed(rule, change, folder):
    assert list(rule(chapter(change(good()), folder))) != []


def test_an_unfolded_solution_is_noticed(folder):
    cells = good()
    for cell in cells:
        cell.metadata.pop("jupyter", None)
    assert list(rules.has_an_exercise_that_can_be_done(chapter(cells, folder))) != []


def test_a_chapter_may_end_the_course():
    ended = replacing("[more](01_sockets.ipynb)", "[the code](../README.md)")(good())
    assert list(rules.leads_on(chapter(ended))) == []
