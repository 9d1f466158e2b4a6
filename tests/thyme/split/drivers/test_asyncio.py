"""Lifelines on asyncio: both ends notice when the other one closes, and strangers are refused."""

from __future__ import annotations

import asyncio

from tests.thyme.split.site_asyncio import run
from thyme.split.drivers.asyncio import AsyncioDriver


class Endpoint:
    """What a driver needs of one, and what it reports."""

    def __init__(self, inbox: str) -> None:
        self.inbox = inbox
        self.reports: asyncio.Queue = asyncio.Queue()

    def lifeline_accepted(self, inbox: str) -> None:
        self.reports.put_nowait(("accepted", inbox))

    def accepted_lifeline_ended(self, inbox: str) -> None:
        self.reports.put_nowait(("accepted one ended", inbox))

    def lifeline_ended(self, inbox: str, if_alive) -> None:
        self.reports.put_nowait(("ended", inbox))

    def lifeline_failed(self, place: str, inbox: str, error: Exception) -> None:
        self.reports.put_nowait(("failed", inbox))


def test_a_lifeline_that_is_closed_by_its_holder_ends_for_the_other_process():
    async def main():
        called, caller = Endpoint("called"), Endpoint("caller")
        accepting, holding = AsyncioDriver(), AsyncioDriver()
        place = accepting.accept_lifelines("127.0.0.1", called)
        holding.hold_lifeline(place, "called", caller)
        assert await called.reports.get() == ("accepted", "caller")
        holding.close()
        assert await called.reports.get() == ("accepted one ended", "caller")
        accepting.close()

    run(main)


def test_a_lifeline_that_is_closed_by_the_process_called_ends_for_its_holder():
    async def main():
        called, caller = Endpoint("called"), Endpoint("caller")
        accepting, holding = AsyncioDriver(), AsyncioDriver()
        place = accepting.accept_lifelines("127.0.0.1", called)
        holding.hold_lifeline(place, "called", caller)
        assert await called.reports.get() == ("accepted", "caller")
        accepting.close()
        assert await caller.reports.get() == ("ended", "called")
        holding.close()

    run(main)


def test_a_lifeline_to_a_process_that_is_not_the_one_meant_fails():
    async def main():
        another, caller = Endpoint("another"), Endpoint("caller")
        accepting, holding = AsyncioDriver(), AsyncioDriver()
        place = accepting.accept_lifelines("127.0.0.1", another)
        holding.hold_lifeline(place, "called", caller)
        assert await caller.reports.get() == ("failed", "called")
        assert another.reports.empty()
        accepting.close()
        holding.close()

    run(main)


def test_a_host_that_is_not_ours_accepts_no_lifelines(caplog):
    async def main():
        assert AsyncioDriver().accept_lifelines("192.0.2.1", Endpoint("called")) is None
        assert "cannot accept lifelines at 192.0.2.1" in caplog.text

    run(main)
