"""The secret key of a checkout: one, private, whoever comes first."""

import os
import threading

from multichat.secret import secret_key


def test_a_key_is_made_once(tmp_path):
    path = tmp_path / "new" / "secret_key"
    key = secret_key(path)
    assert len(key) >= 50
    assert secret_key(path) == key


def test_checkouts_have_different_keys(tmp_path):
    assert secret_key(tmp_path / "one") != secret_key(tmp_path / "two")


def test_only_the_owner_can_read_it_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        secret_key(tmp_path / "key")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_all_that_start_at_once_have_the_same_key_and_leave_no_draft(tmp_path):
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        gate = threading.Barrier(8)
        keys = []

        def start(folder=folder, gate=gate, keys=keys):
            gate.wait()
            keys.append(secret_key(folder / "key"))

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 8
        assert len(set(keys)) == 1
        assert [entry.name for entry in folder.iterdir()] == ["key"]


def test_the_key_that_was_first_wins(tmp_path, monkeypatch):
    """Another process makes the key between our look and our link."""
    path = tmp_path / "key"
    link = os.link

    def late(draft, target):
        path.write_text("the other's")
        link(draft, target)

    monkeypatch.setattr("multichat.secret.os.link", late)
    assert secret_key(path) == "the other's"
