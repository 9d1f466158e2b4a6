"""The options of a relay."""

from __future__ import annotations

import pytest

from thyme.split.flow_control import HTTP_QUEUE, WEBSOCKET_QUEUE, Queue
from thyme.split.relay.options import RelayOptions


@pytest.mark.parametrize(
    ("kind", "path", "queue"),
    [
        ("http", "/", HTTP_QUEUE),
        ("websocket", "/", WEBSOCKET_QUEUE),
        ("http", "/slow", Queue("slow")),
    ],
)
def test_a_connection_waits_in_the_queue_of_its_type_unless_another_is_chosen(kind, path, queue):
    options = RelayOptions(choose=lambda scope: Queue("slow") if scope["path"] == "/slow" else None)
    assert options.queue_for({"type": kind, "path": path}) == queue
