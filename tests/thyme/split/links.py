"""A link whose other side is the test."""

from __future__ import annotations

from typing import Any

from gredis.messages import unpack
from thyme.split.link import Link


class RecordingLink(Link):
    """A link that keeps what it posts. Everything is posted when the test asks for it."""

    def __init__(self, local: str = "here!1", remote: str = "there!1") -> None:
        super().__init__(local, remote, self._record, lambda function: None)
        self._entries: list[list[Any]] = []

    def _record(self, wire: bytes) -> None:
        self._entries += unpack(wire)[6] or ()

    def sent(self, *kinds: str) -> list[list[Any]]:
        """Return all entries so far without their connections; only those of `kinds`, if given."""
        self.flush()
        while not self.drained:
            self.on_posted()
        entries = [entry[1:] for entry in self._entries]
        return [entry for entry in entries if not kinds or entry[0] in kinds]
