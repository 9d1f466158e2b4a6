"""Thyme under Channels' live tests: the server in a process of its own.

    class ChatTests(ChannelsLiveServerTestCase):
        ProtocolServerProcess = ThymeProcess

The rest of the test case stays as it is. The process is forked from the test's, with its settings
and its test database, and only then patched for gevent: the test's own process never is.
"""

from __future__ import annotations

import logging
import multiprocessing
import warnings
from collections.abc import Callable
from typing import Any

Setup = Callable[[], None]


class ThymeProcess(multiprocessing.Process):
    """What `ChannelsLiveServerTestCase` expects of a server process.

    `get_application` returns the ASGI (or esque) application, in the new process; `setup` is
    called before it, `teardown` at an orderly end. `ready` is set when `port` can be connected to.
    """

    def __init__(
        self,
        host: str,
        get_application: Callable[[], Any],
        kwargs: dict[str, Any] | None = None,
        setup: Setup | None = None,
        teardown: Setup | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self.host = host
        self.get_application = get_application
        self.settings = kwargs or {}
        self.setup = setup
        self.teardown = teardown
        self.ready = multiprocessing.Event()
        self.port = multiprocessing.Value("i")

    def run(self) -> None:
        """In the new process: serve until it is terminated."""
        import gevent
        from asgiref.local import Local
        from django.db import connections

        _patch()
        from thyme import loop
        from thyme.config import Config
        from thyme.loading import prepare
        from thyme.server.server import Server

        gevent.reinit()
        loop.install()
        try:
            # Those here are the test's own, not to be shared between processes; and their place
            # was made before the patching, one for all greenlets.
            connections._connections = Local(connections.thread_critical)
            if self.setup is not None:
                self.setup()
            config = Config(host=self.host, port=0, **self.settings)
            server = Server(prepare(self.get_application()), config)
            server.start()
            self.port.value = server.address[1]
            self.ready.set()
            server.serve_forever()
        except Exception:
            logging.getLogger("thyme.testing").exception("the server could not run")
            raise
        finally:
            if self.teardown is not None:
                self.teardown()


def _patch() -> None:
    """Make blocking code cooperative. Late, but asgiref and Django look up how when they wait."""
    from gevent import monkey

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all()
    try:
        from psycogreen.gevent import patch_psycopg
    except ImportError:
        return
    patch_psycopg()
