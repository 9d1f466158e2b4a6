"""Mailboxes without a driver: a plain list is the queue."""

from __future__ import annotations

import pytest

from gredis.errors import Gone
from gredis.mailbox import Mailbox
from gredis.messages import Kind, Message, pack
from tests.gredis.test_client import IdleClient


class Bodies(list):
    put_nowait = list.append


class ListMailbox(Mailbox):
    """Reads without waiting."""

    def get(self):
        return self._unpack(self._bodies.pop(0))


@pytest.fixture
def client() -> IdleClient:
    return IdleClient("tcp://a")


def deliver(client: IdleClient, mailbox: Mailbox, body: object) -> None:
    message = Message(Kind.UNICAST, mailbox.address.local, pack(body))
    client.router.deliver(message.encode())


def test_a_death_is_reported_after_all_bodies_that_came_before(client):
    mailbox = ListMailbox(client, Bodies())
    mailbox.watch("other")
    deliver(client, mailbox, {"n": 1})
    client.router.on_process_gone("other")
    assert mailbox.get() == {"n": 1}
    with pytest.raises(Gone, match="process other has died"):
        mailbox.get()


def test_only_the_process_that_was_named_last_is_watched(client):
    mailbox = ListMailbox(client, Bodies())
    mailbox.watch("one")
    mailbox.watch("two")
    assert client.router.watched == {"two"}


def test_a_closed_mailbox_leaves_nothing(client):
    mailbox = ListMailbox(client, Bodies())
    mailbox.watch("other")
    mailbox.close()
    assert (client.router.locals, client.router.watched) == (frozenset(), frozenset())
