"""The switch of the fast path puts Channels' own names back exactly."""

import channels.consumer
import channels.db
import channels.generic.http
import channels.generic.websocket
import channels.utils
import pytest
from channels.consumer import AsyncConsumer, SyncConsumer

from thyme.fastpath import async_consumers, patches, sync_consumers


@pytest.fixture(autouse=True)
def uninstalled_afterwards():
    yield
    patches.uninstall()


def current():
    modules = (channels.consumer, channels.generic.websocket, channels.generic.http)
    return [
        SyncConsumer.__call__,
        channels.consumer.await_many_dispatch,
        *(module.aclose_old_connections for module in modules),
    ]


def test_install_replaces_and_uninstall_restores():
    patches.install()
    assert current() == [
        sync_consumers.call,
        async_consumers.await_many_dispatch,
        *[async_consumers.aclose_old_connections] * 3,
    ]
    patches.uninstall()
    assert current() == [
        AsyncConsumer.__call__,
        channels.utils.await_many_dispatch,
        *[channels.db.aclose_old_connections] * 3,
    ]
    assert "__call__" not in vars(SyncConsumer)


def test_both_may_be_called_twice():
    patches.install()
    patches.install()
    assert SyncConsumer.__call__ is sync_consumers.call
    patches.uninstall()
    patches.uninstall()
    assert SyncConsumer.__call__ is AsyncConsumer.__call__
