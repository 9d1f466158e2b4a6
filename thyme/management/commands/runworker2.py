"""`manage.py runworker2`: a worker that runs Django and Channels on gevent, with Postgres.

The name is the original's: Channels has a `runworker` of its own, for shared channels only.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from gevent import monkey

from thyme.worker import CONNECTIONS, DRAIN_SECONDS, Worker


class Command(BaseCommand):
    """Take connections from the servers' relays and run the ASGI application on them."""

    help = (
        "Runs the project's ASGI_APPLICATION, on gevent, on connections that the servers' relays "
        "hand over through Redis. Start as many as you like; SIGTERM or Ctrl-C stops one politely."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The options, each with its unit."""
        parser.add_argument(
            "--connections", type=int, default=CONNECTIONS, metavar="N",
            help="connections at the same time, of each type (default: %(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--drain-seconds", type=float, default=DRAIN_SECONDS, metavar="S",
            help="seconds that requests in progress have to finish at the end (%(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--stock", action="store_true",
            help="run synchronous consumers and pages through asyncio, as elsewhere: to compare",
        )  # fmt: skip
        parser.add_argument(
            "--stop-on-eof", action="store_true", help="stop when standard input closes"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until told to stop."""
        if not monkey.is_module_patched("socket"):
            # Too late to patch here, with Django imported: start again, patched from the first.
            command = [sys.executable, "-m", "gevent.monkey", *sys.argv]
            os.execv(sys.executable, command)  # noqa: S606 - our own arguments, no shell
        run(self, options)


def run(command: Command, options: dict[str, Any]) -> None:
    """The worker itself, in a patched process."""
    import gevent
    from psycogreen.gevent import patch_psycopg

    from gredis.errors import Unreachable
    from thyme import loop
    from thyme.application import load
    from thyme.programs import at_end_of_input, on_signals

    patch_psycopg()
    loop.install()
    crossbar = _crossbar()
    module, _, attribute = settings.ASGI_APPLICATION.rpartition(".")
    worker = Worker(
        load(f"{module}:{attribute}", stock=options["stock"]),
        crossbar,
        connections=options["connections"],
        drain_seconds=options["drain_seconds"],
    )
    on_signals((signal.SIGTERM, signal.SIGINT), worker.stop)
    if options["stop_on_eof"]:
        gevent.spawn(at_end_of_input, worker.stop)

    def ready() -> None:
        command.stdout.write(f"Worker {crossbar.inbox} takes connections")
        command.stdout.flush()

    try:
        worker.run(ready)
    except Unreachable as error:
        raise CommandError(str(error)) from error
    finally:
        loop.close_shared_loop()


def _crossbar() -> Any:
    from channels.layers import get_channel_layer

    from gredis.layer import GredisChannelLayer

    layer = get_channel_layer()
    if not isinstance(layer, GredisChannelLayer):
        raise CommandError(
            f"got a default channel layer of type {type(layer).__name__}, expected "
            "gredis.GredisChannelLayer: workers take connections through it; set CHANNEL_LAYERS"
        )
    return layer.crossbar
