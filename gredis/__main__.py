"""The command line: `python -m gredis` runs the TCP hub, `python -m gredis status` looks in.

The hub is for one machine or a network of one's own: no password, no encryption, no replica, and
everything in the memory of one process: its end forgets it. Read `hub/state.py` for what it does.
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
    """Do what the arguments say; the exit code."""
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
    parser = argparse.ArgumentParser("python -m gredis", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="of the hub (%(default)s)")
    parser.add_argument("--port", default=HUB_PORT, type=int, help="of the hub (%(default)s)")
    commands = parser.add_subparsers(dest="command")
    status = commands.add_parser("status", help="show inboxes, queues and groups")
    status.add_argument("--url", default="redis://localhost:6379", help="or several, with spaces")
    status.add_argument("--prefix", default="gredis", help="of all keys (%(default)s)")
    status.add_argument("--every", type=float, metavar="S", help="show again every S seconds")
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
        shows = table(read(options.url, options.prefix))
        if options.every is None:
            sys.stdout.write(f"{shows}\n")
            return 0
        sys.stdout.write(f"{CLEAR}{redact_url(options.url)}, every {options.every} s\n\n{shows}\n")
        sys.stdout.flush()
        gevent.sleep(options.every)


if __name__ == "__main__":
    sys.exit(main())
