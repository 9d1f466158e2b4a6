"""One worker at work on a connection, as its relay knows it. No I/O.

What becomes of an attempt is decided in `split/relay/connection.py`.
"""

from __future__ import annotations

from typing import Any

from thyme.split.flow_control import Inflow
from thyme.split.link import Link
from thyme.split.wire import TAKEN


class Attempt:
    """One worker at work on a connection; `link` is None until it has said hello."""

    __slots__ = (
        "_inflow", "accepted", "connection", "ended", "inbox", "link", "resumes", "told"
    )  # fmt: skip

    def __init__(self, connection: int, told: int, resumes: bool, inflow: Inflow) -> None:
        self.connection = connection
        self.told = told  # number of the next event to send
        self.resumes = resumes  # where another one has ended: the peer is connected already
        self.inbox: str | None = None
        self.link: Link | None = None
        self.accepted = False
        self.ended = False  # or is about to, and need not be told
        self._inflow = inflow

    def say(self, kind: str, *what: Any) -> None:
        """Say something to the worker."""
        if self.link is not None and not self.link.over:
            self.link.say(self.connection, kind, *what)

    def dealt_with(self, weight: int) -> None:
        """The peer has taken an event of this worker, or never will: it may say more."""
        if self._inflow.dealt_with(weight):
            self.say(TAKEN, *self._inflow.tell())
