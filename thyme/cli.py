"""The command line of the server: options to a `Config`, signals to an orderly stop.

Printed to standard output is one line that a program can read, `Thyme listens on http://…`; log
lines go to standard error. The exit code is 0 after SIGTERM, SIGINT or the end of standard input
(`--stop-on-eof`), 1 when the server could not start, 2 for wrong options.

Read next: `server.py`.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence

import gevent

from thyme.application import ApplicationNotFound, load
from thyme.config import Config
from thyme.loop import close_shared_loop, install
from thyme.programs import at_end_of_input, on_signals
from thyme.server import Server

_DESCRIPTION = """\
Serve an application over HTTP/1.1 and WebSocket, a greenlet per connection.

APP is MODULE:ATTRIBUTE. Both kinds of application are welcome:
  ASGI 3   async def application(scope, receive, send)    Channels, Django, Starlette, …
  esque    def application(scope, receive, send)          the same events, no await
"""

_EPILOG = """\
examples:
  python -m thyme multichat.asgi:application              the chat, all in this process
  python -m thyme multichat.relay:application             the chat, in worker processes
  python -m thyme app:hello --host 0.0.0.0 --port 80      for everybody

SIGTERM or SIGINT (Ctrl-C) stops it: requests are finished and WebSockets closed with 1001, for
at most --drain-seconds. A second signal ends it at once.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop; the exit code of the process."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # The library tells every opening and closing; what goes wrong is enough.
    logging.getLogger("thyme.websocket.protocol").setLevel(logging.WARNING)
    install()
    try:
        application = load(options.app, stock=options.stock)
    except ApplicationNotFound as error:
        return _fail(f"cannot find the application: {error}")
    server = Server(application, _config(options))
    try:
        server.start()
    except OSError as error:
        return _fail(
            f"cannot listen on {options.host} port {options.port}: {error.strerror or error}; "
            "choose another with --host or --port"
        )
    _stop_on_signals(server)
    if options.stop_on_eof:
        gevent.spawn(at_end_of_input, server.stop)
    print(f"Thyme listens on {url(*server.address)}", flush=True)
    server.serve_forever()
    close_shared_loop()
    return 0


def url(host: str, port: int) -> str:
    """The address as a browser wants it. RFC 3986 3.2.2: IPv6 addresses stand in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _fail(sentence: str) -> int:
    print(f"thyme: {sentence}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m thyme",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Config()
    add = parser.add_argument
    add("app", metavar="APP", help="the application, as MODULE:ATTRIBUTE")
    add("--host", default=default.host, help="address to listen on (default: %(default)s)")
    add(
        "--port",
        type=_port,
        default=default.port,
        help="port to listen on, 0: let the system choose (default: %(default)s)",
    )
    add("--root-path", default="", help="where the application is mounted, such as /chat")
    add(
        "--drain-seconds",
        type=_seconds,
        default=default.drain_seconds,
        metavar="S",
        help="how long a stop may wait for requests in progress (default: %(default)s)",
    )
    add(
        "--keep-alive-seconds",
        type=_seconds,
        metavar="S",
        help="close a connection idle for so long between requests (default: never)",
    )
    add(
        "--connections",
        type=_count,
        metavar="N",
        help="answer 503 to more connections than this (default: no limit)",
    )
    add(
        "--compress",
        action="store_true",
        help="compress WebSocket messages (permessage-deflate): less to send, more CPU",
    )
    add(
        "--stock",
        action="store_true",
        help="run synchronous consumers and pages through asyncio, as elsewhere: to compare",
    )
    add(
        "--stop-on-eof",
        action="store_true",
        help="stop when standard input ends: with the process that holds its other end",
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"got {port}, expected 0 to 65535")
    return port


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected a number of seconds")
    return seconds


def _config(options: argparse.Namespace) -> Config:
    return Config(
        host=options.host,
        port=options.port,
        root_path=options.root_path.rstrip("/"),
        drain_seconds=options.drain_seconds,
        keep_alive_seconds=options.keep_alive_seconds,
        connections=options.connections,
        compression=options.compress,
    )


def _stop_on_signals(server: Server) -> None:
    received = []

    def stop() -> None:
        received.append(True)
        server.stop(0 if len(received) > 1 else None)

    on_signals((signal.SIGTERM, signal.SIGINT), stop)
