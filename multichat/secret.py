"""The secret key of a checkout: made once, kept in a file that only its owner can read."""

import os
import secrets
from pathlib import Path

KEY_BYTES = 50  # random bytes; Django asks for 50 characters and 5 different ones at least


def secret_key(path: Path) -> str:
    """The key in the file at `path`, which is made first if it is missing. Raises OSError.

    Any number of processes may start at once: each writes a draft, `link` lets exactly one of
    them become the file, whole, and all read that one.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            _write_private(draft, secrets.token_urlsafe(KEY_BYTES))
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first
        finally:
            draft.unlink(missing_ok=True)
    return path.read_text()


def _write_private(path: Path, text: str) -> None:
    # 0600 from the start: there is no moment at which others could open it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
