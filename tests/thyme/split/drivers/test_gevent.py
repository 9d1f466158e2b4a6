"""Lifelines on gevent. Whatever ends one, its socket is closed (pytest reports warnings)."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace

import gevent

from thyme.server.listeners import open_tcp_listener
from thyme.split.drivers.gevent import GeventDriver

ENDPOINT = SimpleNamespace(inbox="mine")


def test_a_lifeline_is_closed_with_its_driver_before_it_was_answered():
    with closing(open_tcp_listener("127.0.0.1", 0, 1)) as listener, gevent.Timeout(30):
        driver = GeventDriver()
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        driver.hold_lifeline(place, "theirs", ENDPOINT)
        called, _ = listener.accept()
        with called:
            assert called.recv(100) == b"theirs mine\n"
            driver.close()
            assert called.recv(100) == b""
