"""Options from the command line, the environment and a file; and the text of `--help`.

An option has the same name in all three places:

    command line     --slow-seconds 5
    environment      THYME_SLOW_SECONDS=5
    file (TOML)      slow-seconds = 5             chosen with --config

The command line takes precedence over the environment, and the environment over the file. Switches
are true or false in the latter two; `bind` may be a list in the file, and is split at spaces in
the environment.

A new option is one `add(…)` below, and a field of `Config` (`config.py`) unless it concerns the
command line only. Read next: `cli/main.py`, which uses the options; `config.py`, the reasons for
the defaults.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thyme.config import Config
from thyme.errors import BadBind
from thyme.server.access_log import FORMATS
from thyme.server.listeners import validate_bind
from thyme.server.proxies import Proxies

PREFIX = "THYME_"
"""Of the names of environment variables."""

_DESCRIPTION = """\
Serve an application over HTTP/1.1 and WebSocket, with one greenlet per connection.

APP is MODULE:ATTRIBUTE and names an application of either kind:
  ASGI 3        async def application(scope, receive, send)    Channels, Django, Starlette, …
  ASGI (esque)  def application(scope, receive, send)          same events, blocking calls
"""

_EPILOG = """\
examples:
  python -m thyme multichat.asgi:application              the chat in a single process
  python -m thyme multichat.relay:application             the chat with separate workers
  python -m thyme app:hello --host 0.0.0.0 --port 80      reachable from other machines
  python -m thyme app:hello --bind :443 --bind unix:/run/app.sock --certificate both.pem
  python -m thyme app:hello --processes 4 --access-log json --proxy-headers 10.0.0.0/8
  python -m thyme app:hello --reload                      restart on changes, for development

signals:
  SIGTERM, SIGINT (Ctrl-C)   stop gracefully: finish requests and close WebSockets with code 1001,
                             for up to --drain-seconds; a second signal stops immediately
  SIGHUP                     restart without downtime: new processes take over when they are ready,
                             and this one finishes its requests and becomes their parent

Options can also be set in the environment (THYME_SLOW_SECONDS=5) or in the TOML file given by
--config (slow-seconds = 5). The command line takes precedence, then the environment.
"""


class _Parser(argparse.ArgumentParser):
    """A parser without defaults: options that are not given are missing from the result."""

    def __init__(self) -> None:
        super().__init__(
            prog="python -m thyme",
            description=_DESCRIPTION,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
        default = Config()
        self.add_argument("app", metavar="APP", nargs="?", help="application to serve")
        self.add_argument("--config", metavar="FILE", help="read options from a TOML file")
        self._network = self.add_argument_group("network")
        self._add_network(default)
        self._operation = self.add_argument_group("operation")
        self._add_operation(default)
        self._limits = self.add_argument_group("limits (sizes in bytes, times in seconds)")
        self._add_limits(default)

    # fmt: off

    def _add_network(self, default: Config) -> None:
        add = self._network.add_argument
        add("--host", help=f"address to listen on (default: {default.host})")
        add("--port", type=_port,
            help=f"port to listen on; 0 picks a free one (default: {default.port})")
        add("--bind", action="append", type=_bind, metavar="ADDRESS",
            help="listen on ADDRESS instead of --host and --port; repeatable. One of HOST:PORT, "
            "[IPv6]:PORT, unix:PATH, or fd://N for an inherited listening socket")
        add("--certificate", metavar="FILE", help="certificate chain (PEM); enables TLS")
        add("--private-key", metavar="FILE",
            help="private key (PEM) of the certificate (default: in the certificate's file)")
        add("--metrics", type=_metrics, metavar="ADDRESS",
            help="serve /health and /metrics (Prometheus) of all processes on ADDRESS; a port "
            "alone means 127.0.0.1")
        add("--root-path", metavar="PATH",
            help="path under which a proxy mounts the application and which it strips, such as "
            "/chat")
        add("--proxy-headers", type=_proxies, metavar="ADDRESSES",
            help="trust X-Forwarded-For and X-Forwarded-Proto from these addresses or networks, "
            'separated by commas; "unix" for Unix sockets')

    def _add_operation(self, default: Config) -> None:
        add, switch = self._operation.add_argument, argparse.BooleanOptionalAction
        add("--processes", type=_number, metavar="N",
            help="run N processes on shared sockets and restart those that exit; 0 serves in this "
            "process (default)")
        add("--reload", action=switch, help="restart on source changes (development)")
        add("--access-log", choices=FORMATS,
            help="log each request to standard error, in Common Log Format or as JSON")
        add("--compress", action=switch,
            help="compress WebSocket messages (permessage-deflate): less traffic, more CPU time")
        add("--ping-seconds", type=_seconds, metavar="S",
            help="ping WebSockets that have been idle for S seconds (default: never)")
        add("--stock", action=switch,
            help="run synchronous consumers and views through asyncio, as other servers do (for "
            "comparison)")
        add("--stop-on-eof", action=switch,
            help="stop when standard input closes, such as when the parent process exits")

    def _add_limits(self, default: Config) -> None:
        add = self._limits.add_argument
        for name, kind, meaning in _LIMITS:
            value = getattr(default, name)
            shown = "no limit" if value is None else value
            add(f"--{name.replace('_', '-')}", type=kind, metavar="S" if kind is _seconds else "N",
                help=f"{meaning} (default: {shown})")

    # fmt: on


def read_options(arguments: Sequence[str] | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that are given, by name. Exits with code 2 if they are invalid."""
    parser = _Parser()
    from_arguments = vars(parser.parse_args(arguments))
    from_environment = vars(parser.parse_args(_environment_arguments(parser, environment)))
    file = from_arguments.pop("config", None) or from_environment.pop("config", None)
    from_file = vars(parser.parse_args(_file_arguments(parser, file))) if file else {}
    options = from_file | from_environment | from_arguments
    if not options.get("app"):
        parser.error("the following arguments are required: APP")
    if "private_key" in options and "certificate" not in options:
        parser.error("--private-key requires --certificate")
    return options


def build_config(options: Mapping[str, Any]) -> Config:
    """Return the `Config` that `options` describe."""
    names = ("host", "port", "certificate", "private_key", "access_log", "ping_seconds")
    limits = tuple(name for name, _, _ in _LIMITS)
    return Config(
        **{name: options[name] for name in names + limits if name in options},
        binds=tuple(options.get("bind", ())),
        proxies=tuple(options.get("proxy_headers", ())),
        root_path=options.get("root_path", "").rstrip("/"),
        compression=options.get("compress", False),
    )


def to_arguments(options: Mapping[str, Any]) -> list[str]:
    """Return the command line that gives all of `options`, to start a process with the same."""
    arguments: list[str] = []
    for name, value in options.items():
        if name == "proxy_headers":
            value = ",".join(value)
        arguments += [value] if name == "app" else _argument(name, value)
    return arguments


def _argument(name: str, value: Any) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    values = value if isinstance(value, list) else [value]
    return [f"{option}={each}" for each in values]


def _names(parser: _Parser) -> dict[str, bool]:
    """Return the name of each option, and True for those that are switches."""
    return {
        action.dest: isinstance(action, argparse.BooleanOptionalAction)
        for action in parser._actions
        if action.dest not in ("help", "app")
    }


def _environment_arguments(parser: _Parser, environment: Mapping[str, str]) -> list[str]:
    arguments = []
    for name, is_switch in _names(parser).items():
        text = environment.get(PREFIX + name.upper())
        if text and is_switch:
            arguments += _argument(name, _parse_switch(parser, PREFIX + name.upper(), text))
        elif text:
            arguments += _argument(name, text.split() if name == "bind" else text)
    app = environment.get(f"{PREFIX}APP")
    return [*arguments, app] if app else arguments


def _parse_switch(parser: _Parser, name: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() not in ("0", "false", "no", "off"):
        parser.error(f"{name}: got {text!r}, expected true or false")
    return False


def _file_arguments(parser: _Parser, path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        parser.error(f"cannot read {path}: {error}")
    arguments = []
    for key, value in found.items():
        name = key.replace("-", "_")
        if name == "app":
            arguments.append(str(value))
        elif name in _names(parser).keys() - {"config"}:
            arguments += _argument(name, value)
        else:
            parser.error(f"{path}: unknown option {key!r}")
    return arguments


# Types of options: each returns the value, or raises an error that names what was expected.


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"got {port}, expected 0 to 65535")
    return port


def _number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"got {text}, expected 0 or more")
    return number


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


def _bind(text: str) -> str:
    try:
        return validate_bind(text)
    except BadBind as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _metrics(text: str) -> str:
    return _bind(f"127.0.0.1:{text}" if text.isdecimal() else text)


def _proxies(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        Proxies(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return names


_LIMITS: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    ("connections", _count, "simultaneous connections; further ones get 503"),
    ("head_bytes", _count, "size of a request head; larger ones get 431"),
    ("target_bytes", _count, "size of a request target; longer ones get 414"),
    ("header_fields", _count, "number of fields in a request head; more get 431"),
    ("body_bytes", _count, "size of a request body; larger ones get 413"),
    ("message_bytes", _count, "size of a WebSocket message; larger ones close it with code 1009"),
    (
        "head_seconds",
        _seconds,
        "time for a request head (else 408), or for the TLS handshake",
    ),
    ("keep_alive_seconds", _seconds, "idle time between requests before the connection is closed"),
    ("pong_seconds", _seconds, "time to wait for the answer to a ping"),
    ("close_seconds", _seconds, "time to wait for the answer to a WebSocket close frame"),
    ("drain_seconds", _seconds, "time to finish requests and WebSockets when stopping"),
    ("slow_seconds", _seconds, "time that a client may leave data unread, else 1013"),
    (
        "slow_bytes",
        _count,
        "buffer for a WebSocket client that does not read, else 1013",
    ),
)
