"""`manage.py runworker2`: a worker that runs Django and Channels, on gevent or on plain asyncio.

Channels has a `runworker` command already, which only serves named channels; hence the 2.
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
from thyme.split.worker.endpoint import CONNECTIONS, QUEUES, WORKER_DRAIN_SECONDS


class Command(BaseCommand):
    """Accept connections from the servers' relays and run the ASGI application on them."""

    help = (
        "Runs the project's ASGI_APPLICATION on connections that servers relay through Redis. Any "
        "number of workers may run; SIGTERM or Ctrl-C stops one gracefully."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Define the options."""
        parser.add_argument(
            "--loop", choices=["gevent", "asyncio"], default="gevent",
            help="gevent: greenlets in a patched process; asyncio: coroutines and threads "
            "(default: %(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--queue", type=queue_option, action="append", metavar="NAME[=N]", dest="queues",
            help="accept connections from this queue, at most N simultaneously; repeatable "
            "(default: http and websocket)",
        )  # fmt: skip
        parser.add_argument(
            "--connections", type=int, default=CONNECTIONS, metavar="N",
            help="simultaneous connections from each queue without a number (default: %(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--drain-seconds", type=float, default=WORKER_DRAIN_SECONDS, metavar="S",
            help="seconds to finish requests when stopping (default: %(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--window-events", type=int, default=WINDOW_EVENTS, metavar="N",
            help="events per connection that may wait for its consumer (default: %(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--window-bytes", type=int, default=WINDOW_BYTES, metavar="N",
            help="bytes per connection that may wait for its consumer (default: %(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--stock", action="store_true",
            help="run synchronous consumers and views through asyncio, as other servers do (for "
            "comparison)",
        )  # fmt: skip
        parser.add_argument(
            "--stop-on-eof", action="store_true",
            help="stop when standard input closes, such as when the parent process exits",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until the worker is stopped."""
        named = options["queues"] or [(name, None) for name in QUEUES]
        options["queues"] = {name: limit or options["connections"] for name, limit in named}
        options["window"] = Window(options["window_events"], options["window_bytes"])
        if options["loop"] == "asyncio":
            import asyncio

            if _patched():
                raise CommandError(
                    "--loop asyncio needs a process that gevent has not patched; change manage.py "
                    "so that it does not patch for this command"
                )
            asyncio.run(run_on_asyncio(self, options))
            return
        from gevent import monkey

        if not monkey.is_module_patched("socket"):
            # Django is imported already, so it is too late to patch: replace this process.
            command = [sys.executable, "-m", "gevent.monkey", *sys.argv]
            os.execv(sys.executable, command)  # noqa: S606 - our own arguments, no shell
        run(self, options)

    def ready(self, inbox: str) -> None:
        """Report that the worker accepts connections."""
        gc.freeze()  # the program's own objects live on: later collections need not visit them
        self.stdout.write(f"Worker {inbox} takes connections")
        self.stdout.flush()


def queue_option(text: str) -> tuple[str, int | None]:
    """Return the name and the limit of NAME or NAME=N."""
    name, equals, number = text.partition("=")
    if not name or (equals and not (number.isdigit() and int(number))):
        raise ArgumentTypeError(f"got {text!r}, expected NAME or NAME=CONNECTIONS")
    return name, int(number) if equals else None


def run(command: Command, options: dict[str, Any]) -> None:
    """Run a worker on gevent, in a patched process."""
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
    """Run a worker on the running event loop, in a process that is not patched."""
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
        running.add_reader(0, _stop_on_eof, running, worker.stop)
    try:
        await worker.run(lambda: command.ready(crossbar.inbox))
    except Unreachable as error:
        raise CommandError(str(error)) from error


def _patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("socket")


def _stop_on_eof(running: Any, stop: Any) -> None:
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
            "gredis.GredisChannelLayer, through which workers receive connections; set "
            "CHANNEL_LAYERS"
        )
    return layer
