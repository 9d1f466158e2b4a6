"""The secret key of a checkout: generated once, stored in a file that only its owner can read."""

import os
import secrets
from pathlib import Path

KEY_BYTES = 50  # random bytes; Django requires 50 characters, at least 5 of them different


def secret_key(path: Path) -> str:
    """Return the key in the file at `path`; create the file if needed. Raises OSError.

    Several processes may start at once: each writes a draft, `link` makes exactly one of the drafts
    the file, atomically, and all read that one.
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
    # Created with mode 0600, so others can open it at no time.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
