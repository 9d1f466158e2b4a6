"""`manage.py runworker2`: a worker that runs Django and Channels, on gevent or on plain asyncio.

The name is the original's: Channels has a `runworker` of its own, for shared channels only.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from gredis.channels.layer import GredisChannelLayer
from gredis.errors import Unreachable
from thyme.split.flow_control import WINDOW_BYTES, WINDOW_EVENTS, Window
from thyme.split.worker.endpoint import CONNECTIONS, DRAIN_SECONDS, QUEUES


class Command(BaseCommand):
    """Take connections from the servers' relays and run the ASGI application on them."""

    help = (
        "Runs the project's ASGI_APPLICATION on connections that the servers' relays hand over "
        "through Redis. Start as many as you like; SIGTERM or Ctrl-C stops one politely."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The options, each with its unit."""
        parser.add_argument(
            "--loop", choices=["gevent", "asyncio"], default="gevent",
            help="gevent: greenlets, everything patched; asyncio: as on Daphne (%(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--queue", type=queue_option, action="append", metavar="NAME[=N]", dest="queues",
            help="take connections from this queue, at most N at a time; may be given several "
            "times (default: http and websocket)",
        )  # fmt: skip
        parser.add_argument(
            "--connections", type=int, default=CONNECTIONS, metavar="N",
            help="connections at the same time, of each queue without a number (%(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--drain-seconds", type=float, default=DRAIN_SECONDS, metavar="S",
            help="seconds that requests in progress have to finish at the end (%(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--window-events", type=int, default=WINDOW_EVENTS, metavar="N",
            help="events of one connection that wait for its consumer (%(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--window-bytes", type=int, default=WINDOW_BYTES, metavar="N",
            help="bytes of one connection that wait for its consumer (%(default)s)",
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
        named = options["queues"] or [(name, None) for name in QUEUES]
        options["queues"] = {name: room or options["connections"] for name, room in named}
        options["window"] = Window(options["window_events"], options["window_bytes"])
        if options["loop"] == "asyncio":
            import asyncio

            if _patched():
                raise CommandError("gevent has patched this process: see the project's manage.py")
            asyncio.run(run_on_asyncio(self, options))
            return
        from gevent import monkey

        if not monkey.is_module_patched("socket"):
            # Too late to patch here, with Django imported: start again, patched from the first.
            command = [sys.executable, "-m", "gevent.monkey", *sys.argv]
            os.execv(sys.executable, command)  # noqa: S606 - our own arguments, no shell
        run(self, options)

    def ready(self, inbox: str) -> None:
        """Say that it takes connections."""
        gc.freeze()  # what the program itself consists of is not searched for garbage again
        self.stdout.write(f"Worker {inbox} takes connections")
        self.stdout.flush()


def queue_option(text: str) -> tuple[str, int | None]:
    """NAME, or NAME=N."""
    name, equals, number = text.partition("=")
    if not name or (equals and not (number.isdigit() and int(number))):
        raise ArgumentTypeError(f"got {text!r}, expected NAME or NAME=CONNECTIONS")
    return name, int(number) if equals else None


def run(command: Command, options: dict[str, Any]) -> None:
    """The worker itself, in a patched process."""
    from psycogreen.gevent import patch_psycopg

    from thyme import loop
    from thyme.loading import load
    from thyme.split.worker.gevent import Worker
    from thyme.supervisor.signals import on_eof, on_signals

    patch_psycopg()
    loop.install()
    crossbar = _layer().crossbar
    worker = Worker(
        load(_application(), stock=options["stock"]),
        crossbar,
        queues=options["queues"],
        drain_seconds=options["drain_seconds"],
        window=options["window"],
    )
    on_signals((signal.SIGTERM, signal.SIGINT), worker.stop)
    if options["stop_on_eof"]:
        on_eof(worker.stop)
    try:
        worker.run(lambda: command.ready(crossbar.inbox))
    except Unreachable as error:
        raise CommandError(str(error)) from error
    finally:
        loop.close_shared_loop()


async def run_on_asyncio(command: Command, options: dict[str, Any]) -> None:
    """The same on the running loop, with nothing patched."""
    import asyncio

    from channels.routing import get_default_application

    from thyme.split.worker.asyncio import AsyncioWorker

    crossbar = _layer().crossbar
    worker = AsyncioWorker(
        get_default_application(),
        crossbar,
        queues=options["queues"],
        drain_seconds=options["drain_seconds"],
        window=options["window"],
    )
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, worker.stop)
    if options["stop_on_eof"]:
        running.add_reader(0, _at_end_of_input, running, worker.stop)
    try:
        await worker.run(lambda: command.ready(crossbar.inbox))
    except Unreachable as error:
        raise CommandError(str(error)) from error


def _patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("socket")


def _at_end_of_input(running: Any, stop: Any) -> None:
    if not os.read(0, 4096):
        running.remove_reader(0)
        stop()


def _application() -> str:
    module, _, attribute = settings.ASGI_APPLICATION.rpartition(".")
    return f"{module}:{attribute}"


def _layer() -> GredisChannelLayer:
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    if not isinstance(layer, GredisChannelLayer):
        raise CommandError(
            f"got a default channel layer of type {type(layer).__name__}, expected "
            "gredis.GredisChannelLayer: workers take connections through it; set CHANNEL_LAYERS"
        )
    return layer
