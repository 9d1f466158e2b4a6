"""Lifelines on gevent: whatever ends one, its socket is closed (else pytest sees a warning)."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace

import gevent

from thyme.server.listeners import listening_socket
from thyme.split.drivers.gevent import GeventDriver

DESK = SimpleNamespace(end=SimpleNamespace(inbox="mine"))


def test_a_lifeline_that_is_let_go_of_before_it_is_answered_is_closed():
    with closing(listening_socket("127.0.0.1", 0, 1)) as listener, gevent.Timeout(30):
        driver = GeventDriver()
        driver.hold(f"127.0.0.1:{listener.getsockname()[1]}", "theirs", DESK)
        called, _ = listener.accept()
        with called:
            assert called.recv(100) == b"theirs mine\n"
            driver.close()
            assert called.recv(100) == b""
