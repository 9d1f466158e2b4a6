"""Changes of source files, as the operating system reports them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from thyme.cli.reload import Reloader

LIMIT = 60  # seconds for a change to be noticed; much more than it takes


@contextmanager
def watching(folder: Path) -> Iterator[Event]:
    """Watch `folder`; the event is set by each change, the first ones made here."""
    changed = Event()
    reloader = Reloader(folder, changed.set)
    reloader.start()
    try:
        with gevent.Timeout(LIMIT):  # the watch is in place when it has reported something
            while not changed.wait(0.05):
                (folder / "first.py").write_text("")
        settle(changed)
        yield changed
    finally:
        reloader.stop()


def settle(changed: Event) -> None:
    """Return when all changes so far have been reported."""
    changed.clear()
    while changed.wait(0.6):
        changed.clear()


def test_a_changed_new_and_deleted_source_file_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    file = tmp_path / "package" / "module.py"
    with watching(tmp_path) as changed:
        for change in (lambda: file.write_text("1"), lambda: file.write_text("2"), file.unlink):
            change()
            assert changed.wait(LIMIT)
            settle(changed)


@pytest.mark.parametrize("name", ["notes.txt", ".venv/module.py", "__pycache__/module.py"])
def test_other_files_are_no_change(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    reported: list[None] = []
    with watching(tmp_path) as changed:
        changed.rawlink(lambda _: reported.append(None))
        file.write_text("1")
        settle(changed)
        assert reported == []
        (tmp_path / "last.py").write_text("")
        assert changed.wait(LIMIT)


def test_a_folder_below_a_hidden_one_is_watched(tmp_path: Path) -> None:
    folder = tmp_path / ".hidden" / "site"
    folder.mkdir(parents=True)
    with watching(folder) as changed:
        (folder / "module.py").write_text("1")
        assert changed.wait(LIMIT)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system has no /proc")
def test_nothing_is_left_after_the_end(tmp_path: Path) -> None:
    def watches() -> int:
        """Count this process's inotify descriptors, each of which has a thread."""
        links = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        return sum("inotify" in link for link in links)

    before = watches()
    with watching(tmp_path):
        assert watches() == before + 1
    with gevent.Timeout(LIMIT):
        while watches() != before:
            gevent.sleep(0.01)


def test_a_folder_that_cannot_be_watched_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reloader = Reloader(tmp_path / "nowhere", lambda: None)
    reloader.start()
    reloader.stop()
    assert f"cannot watch {tmp_path}/nowhere for changes" in caplog.text
