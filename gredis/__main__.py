"""The command line: `python -m gredis` runs the TCP hub, `python -m gredis status` shows figures.

The hub is for one machine or a private network: it has no password, no encryption and no replica,
and keeps everything in the memory of one process. Read `hub/state.py` for its behaviour.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys

import gevent

from gredis.errors import GredisError
from gredis.hub.server import HubServer
from gredis.location import HUB_PORT, redact_url
from gredis.status import read, table

CLEAR = "\x1b[H\x1b[2J"


def main() -> int:
    """Run the command given by the arguments, and return the exit code."""
    options = _parser().parse_args()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    try:
        if options.command == "status":
            return _status(options)
        return _hub(options)
    except (GredisError, OSError) as error:
        sys.stderr.write(f"gredis: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m gredis",
        description="Run the TCP hub, or show the state of a crossbar. The hub is for one machine "
        "or a private network: no password, no encryption, no replica, everything in memory.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address the hub listens on (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        default=HUB_PORT,
        type=int,
        help="port the hub listens on, 0 for any free one (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", metavar="[status]")
    status = commands.add_parser("status", help="show inboxes, queues and groups, and exit")
    status.add_argument(
        "--url",
        default="redis://localhost:6379",
        help="URL of Redis or of a hub; several separated by spaces (default: %(default)s)",
    )
    status.add_argument(
        "--prefix", default="gredis", help="prefix of all keys (default: %(default)s)"
    )
    status.add_argument(
        "--every", type=float, metavar="SECONDS", help="repeat at this interval until interrupted"
    )
    return parser


def _hub(options: argparse.Namespace) -> int:
    server = HubServer(options.host, options.port)
    server.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.stop)
    sys.stdout.write("The hub listens on tcp://{}:{}\n".format(*server.address))
    sys.stdout.flush()
    server.serve_forever()
    return 0


def _status(options: argparse.Namespace) -> int:
    while True:
        text = table(read(options.url, options.prefix))
        if options.every is None:
            sys.stdout.write(f"{text}\n")
            return 0
        url = " ".join(map(redact_url, options.url.split()))
        sys.stdout.write(f"{CLEAR}{url}, every {options.every} s\n\n{text}\n")
        sys.stdout.flush()
        gevent.sleep(options.every)


if __name__ == "__main__":
    sys.exit(main())
