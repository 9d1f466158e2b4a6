"""The sprig: the chapters' cells write a program that keeps its limits and does what it claims."""

import ast
import contextlib
import json
import subprocess
import sys
from functools import partial

import pytest
from course import chat as people
from course import meter, sprig
from course.chapters import CHAPTERS
from course.programs import Program
from course.visitors import Visitor, log_in
from nbformat.v4 import new_code_cell, new_notebook

from tests.notebooks.rules import ROOT

FILE_LINES = 120  # of one file
LINES = 1500  # of all files, blank ones not counted
SERVED = {"demo.py", "multichat_settings.py"}  # for trying the sprig; not counted
IMPORTS = {  # whose packages the sprig may use, beside the standard library and itself
    "asgiref", "channels", "dj_database_url", "django", "gevent", "greenlet", "msgpack",
    "multichat", "psycogreen", "psycopg2", "redis",
}  # fmt: skip
WRITING = [int(path.name[:2]) for path in sprig.chapters(1, 99) if sprig.files_of(path)]
LAST = WRITING[-1]

# Run `python -m sprig` with nothing of ours to import but what multichat's settings need.
GUARD = """
import runpy, sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        allowed = name == "thyme" or name.startswith("thyme.services")
        if name.partition(".")[0] in ("thyme", "gredis") and not allowed:
            raise ImportError(f"the sprig must not import {name}")

sys.meta_path.insert(0, Guard())
runpy.run_module("sprig", run_name="__main__", alter_sys=True)
"""


# --- what the chapters write ----------------------------------------------------------------


@pytest.mark.parametrize("chapter", WRITING)
def test_the_sprig_of_a_chapter_is_complete_small_and_stands_alone(chapter, tmp_path):
    files = sprig.assemble(chapter, tmp_path)
    for file, text in files.items():
        assert (tmp_path / "sprig" / file).read_text() == text
        assert len(text.splitlines()) <= FILE_LINES, file
    assert sum(sprig.count_lines(files[file]) for file in files.keys() - SERVED) <= LINES
    for file in files:
        if file.endswith(".py"):
            for module in imported(files[file], file):
                top, _, inside = module.partition(".")
                if top == "sprig":
                    assert {f"{inside.replace('.', '/')}.py", f"{inside}/__init__.py"} & {
                        *files,
                        ".py",
                    }
                else:
                    assert top in IMPORTS | sys.stdlib_module_names, f"{file} imports {module}"


def imported(text, file):
    """The names of all modules that a file imports."""
    for node in ast.walk(ast.parse(text, file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the sprig imports by full names"
            yield node.module


@pytest.mark.parametrize("chapter", WRITING)
def test_the_cells_of_a_chapter_replace_nothing_with_itself(chapter):
    before, new = sprig.files_upto(chapter - 1), sprig.files_of(sprig.chapters(chapter, chapter)[0])
    assert [file for file, text in new.items() if before.get(file) == text] == []


def test_a_shell_can_have_the_sprig_too(tmp_path):
    command = [sys.executable, "-m", "course.sprig", "--upto", str(LAST), str(tmp_path)]
    said = subprocess.run(command, cwd=sprig.NOTEBOOKS, capture_output=True, text=True, check=True)
    written = {path for path in (tmp_path / "sprig").rglob("*") if path.is_file()}
    assert {line.split()[1] for line in said.stdout.splitlines()} == set(map(str, written))
    assert len(written) == len(sprig.files_upto(LAST))


# --- how cells become files -----------------------------------------------------------------


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """notebooks(chapter, *sources): save a chapter with these cells, in a course of its own."""
    monkeypatch.setattr(sprig, "NOTEBOOKS", tmp_path)

    def save(chapter, *sources, tags=()):
        cells = [new_code_cell(source, metadata={"tags": list(tags)}) for source in sources]
        path = tmp_path / CHAPTERS[chapter].file
        path.write_text(json.dumps(new_notebook(cells=cells)))

    return save


def test_parts_are_joined_as_a_formatter_would(notebooks):
    notebooks(1, "%%sprig a.py 1/3\nclass A:\n    x = 1", "1 + 1", "%%sprig a.py 2/3\n    y = 2",
              "%%sprig a.py 3/3\n\nz = 3\n")  # fmt: skip
    assert sprig.files_upto(1) == {"a.py": "class A:\n    x = 1\n\n    y = 2\n\n\nz = 3\n"}


def test_what_a_reader_has_saved_in_an_earlier_chapter_is_carried_along(notebooks, tmp_path):
    notebooks(1, "%%sprig a.py\nx = 1", "%%sprig b.py\ny = 1")
    notebooks(2, "%%sprig b.py\ny = 2")
    assert sprig.Workspace(2, tmp_path / "w").files == {"a.py": "x = 1\n", "b.py": "y = 1\n"}
    notebooks(1, "%%sprig a.py\nx = 'mine'", "%%sprig b.py\ny = 1")
    assert sprig.Workspace(3, tmp_path / "w").files == {"a.py": "x = 'mine'\n", "b.py": "y = 2\n"}


def test_the_solution_of_an_exercise_is_not_part_of_the_sprig(notebooks):
    notebooks(1, "%%sprig a.py\nx = 1", tags=["solution"])
    assert sprig.files_upto(1) == {}


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        (["%%sprig a.py\nx ="], "a.py, line 1: invalid syntax"),
        (["%%sprig a.py 1/2\nx = 1"], "01_sockets.ipynb: a.py has 1 of 2 parts"),
        (["%%sprig a.py 2/2\nx = 1"], "01_sockets.ipynb: a.py has no part 1"),
        (["%%sprig a.py 3/2\nx = 1"], "a.py: there is no part 3 of 2"),
        (["%%sprig a.txt\nx = 1"], "write '%%sprig FILE'"),
    ],
)
def test_cells_that_cannot_be_used_are_named(notebooks, sources, complaint):
    notebooks(1, *sources)
    with pytest.raises(sprig.SprigError, match=complaint):
        sprig.files_upto(1)


def add(workspace, source):
    return workspace.add(sprig.Part.parse(source))


def test_a_cell_writes_its_file_and_shows_what_it_replaces(notebooks, tmp_path):
    notebooks(1, "%%sprig a.py\nx = 1\ny = 1")
    workspace = sprig.Workspace(2, tmp_path / "w")
    change = add(workspace, "%%sprig a.py\nx = 1\ny = 2")
    assert (tmp_path / "w/sprig/a.py").read_text() == "x = 1\ny = 2\n"
    assert repr(change) == "a.py: 2 lines, 1 of them new, 1 gone"
    assert [line for line in change.diff if line[0] != " "] == ["-y = 1", "+y = 2"]
    assert "-y = 1" in change._repr_html_()
    assert repr(add(workspace, "%%sprig b.py\nz = 3")) == "b.py: 1 lines"


def test_the_last_part_writes_the_file_and_a_cell_may_be_run_again(notebooks, tmp_path):
    workspace = sprig.Workspace(1, tmp_path / "w")
    file = tmp_path / "w/sprig/a.py"
    assert add(workspace, "%%sprig a.py 1/2\nx = 1") is None
    assert not file.exists()
    add(workspace, "%%sprig a.py 2/2\ny = 2")
    add(workspace, "%%sprig a.py 1/2\nx = 7")
    add(workspace, "%%sprig a.py 2/2\ny = 2")
    assert file.read_text() == "x = 7\n\n\ny = 2\n"


def test_a_part_that_is_missing_is_asked_for(notebooks, tmp_path):
    workspace = sprig.Workspace(1, tmp_path / "w")
    add(workspace, "%%sprig a.py 1/3\nx = 1")
    with pytest.raises(sprig.SprigError, match=r"run the cells with the parts \[2\] first"):
        add(workspace, "%%sprig a.py 3/3\nz = 3")


# --- what the meter claims --------------------------------------------------------------------


def named(capability):
    return f"{capability.chapter:02}-{capability.name}"


@pytest.mark.parametrize(
    "capability", [each for each in meter.CAPABILITIES if not each.in_chat], ids=named
)
def test_the_sprig_does_what_the_meter_claims(capability, tmp_path):
    workspace = sprig.Workspace(capability.chapter, tmp_path, last=capability.chapter)
    assert capability.measure(workspace) == capability.claim


@pytest.mark.parametrize(
    "capability",
    [each for each in meter.CAPABILITIES if isinstance(each.measure, partial)],
    ids=named,
)
def test_later_chapters_take_nothing_away(capability, tmp_path):
    assert capability.measure(sprig.Workspace(LAST, tmp_path, last=LAST)) == capability.claim


def test_the_meter_is_drawn_alike_each_time_and_says_in_words_what_it_shows(tmp_path):
    workspace = sprig.Workspace(3, tmp_path, last=3)
    outcomes = {each: each.claim for each in meter.CAPABILITIES if each.chapter <= 3}
    drawn = [meter.draw(workspace, outcomes)._repr_svg_() for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert "refuses what is ambiguous: 15 of 15" in drawn[0].partition("</title>")[0]


# --- the finished chat ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat():
    chat = people.Chat()
    yield chat
    chat.end()


@pytest.fixture
def run(chat, tmp_path):
    """run(*arguments): `python -m sprig …` for the chat, as of the last chapter, and guarded."""
    workspace = sprig.Workspace(LAST, tmp_path, last=LAST)
    environment = {**chat.environment, "PYTHONPATH": f"{workspace.path}:{ROOT}"}
    with contextlib.ExitStack() as endings:

        def start(*arguments):
            return endings.enter_context(Program("-c", GUARD, *arguments, env=environment))

        yield start


def test_the_guard_notices_an_import_of_ours(run, chat):
    program = run("gredis:connect", "--port", "0")
    with pytest.raises(RuntimeError, match="the sprig must not import gredis"):
        program.line("http")


def serve(run, application="multichat.asgi:application"):
    return run(application, "--port", "0").line(r"http://\S+")[0]


def work(run):
    worker = run("multichat.asgi:application", "--worker")
    worker.line("Sprig works")
    return worker


def test_the_chat_in_one_process(chat, run):
    url = serve(run)
    assert people.conversation(chat, url, url) == people.EXPECTED
    bob = Visitor(url, log_in(url, "bob", people.PASSWORD))
    assert bob.ask("join", chat.garden) == {"join": str(chat.garden), "title": "Garden"}
    bob.close()


def test_the_chat_over_two_servers(chat, run):
    assert people.conversation(chat, serve(run), serve(run)) == people.EXPECTED


def test_the_chat_over_two_servers_without_django_and_two_workers(chat, run):
    workers = [work(run), work(run)]
    urls = [serve(run, "sprig.relay:application") for _ in workers]
    assert people.conversation(chat, *urls) == people.EXPECTED
    workers[0].end()  # the other one works alone
    assert people.conversation(chat, *urls) == people.EXPECTED


def test_a_killed_worker_costs_its_websockets_and_nothing_else(chat, run):
    first = work(run)
    urls = [serve(run, "sprig.relay:application") for _ in range(2)]
    pages = [chat.visit(url, name) for url, name in zip(urls, ("alice", "bob"), strict=True)]
    assert [page.ask("join", chat.garden)["join"] for page in pages] == [str(chat.garden)] * 2
    second = work(run)
    first.process.kill()
    assert [page.closed() for page in pages] == [1012, 1012]
    assert people.conversation(chat, *urls) == people.EXPECTED
    assert second.process.poll() is None


def test_when_a_server_is_killed_its_people_leave_their_rooms(chat, run):
    work(run)
    doomed, other = (run("sprig.relay:application", "--port", "0") for _ in range(2))
    urls = [program.line(r"http://\S+")[0] for program in (doomed, other)]
    bob, alice = chat.visit(urls[0], "bob"), chat.visit(urls[1], "alice")
    alice.ask("join", chat.garden)
    bob.ask("join", chat.garden)
    assert alice.hear()["msg_type"] == 4
    doomed.process.kill()
    notice = alice.hear()
    assert (notice["msg_type"], notice["username"]) == (5, "bob")
    bob.socket.shutdown()
    alice.close()
