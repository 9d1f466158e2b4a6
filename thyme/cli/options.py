"""What can be said on the command line, in a file and in the environment; the help one learns from.

Every option has the same name everywhere:

    command line     --slow-seconds 5
    environment      THYME_SLOW_SECONDS=5
    file (TOML)      slow-seconds = 5             chosen by --config

The command line wins over the environment, and that over the file. Switches are true or false in
the latter two, and `bind` may be a list in the file, in the environment words.

Read next: `cli/main.py`, which obeys; `config.py`, the reasons for the defaults.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thyme.config import Config
from thyme.errors import BadBind
from thyme.server.access_log import FORMATS
from thyme.server.listeners import checked_bind
from thyme.server.proxies import Proxies

PREFIX = "THYME_"
"""Of the names in the environment."""

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
  python -m thyme app:hello --bind :443 --bind unix:/run/app.sock --certificate both.pem
  python -m thyme app:hello --processes 4 --access-log json --proxy-headers 10.0.0.0/8
  python -m thyme app:hello --reload                      while you write it

signals:
  SIGTERM, SIGINT (Ctrl-C)   stop: requests are finished and WebSockets closed with 1001, for at
                             most --drain-seconds; a second one ends it at once
  SIGHUP                     start anew, without refusing a connection: a new process (or N) takes
                             over when it is ready, and this one finishes and becomes its parent

Every option can also stand in the environment (THYME_SLOW_SECONDS=5) or, without its dashes in
front, in the TOML file of --config (slow-seconds = 5). The command line wins, then the environment.
"""


class _Parser(argparse.ArgumentParser):
    """Its options have no defaults: what is not said is not in the result."""

    def __init__(self) -> None:
        super().__init__(
            prog="python -m thyme",
            description=_DESCRIPTION,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
        default = Config()
        self.add_argument("app", metavar="APP", nargs="?", help="the application")
        self.add_argument("--config", metavar="FILE", help="read options from a TOML file")
        self._where = self.add_argument_group("where it listens")
        self._add_where(default)
        self._behaviour = self.add_argument_group("how it behaves")
        self._add_behaviour(default)
        self._limits = self.add_argument_group("limits (sizes in bytes, times in seconds)")
        self._add_limits(default)

    # fmt: off

    def _add_where(self, default: Config) -> None:
        add = self._where.add_argument
        add("--host", help=f"address to listen on (default: {default.host})")
        add("--port", type=_port, help=f"port, 0: any free one (default: {default.port})")
        add("--bind", action="append", type=_bind, metavar="PLACE",
            help="listen there instead; may be repeated: HOST:PORT, [IPv6]:PORT, unix:PATH, or "
            "fd://N, a listening socket that was inherited")
        add("--certificate", metavar="FILE", help="speak TLS, with this certificate chain (PEM)")
        add("--private-key", metavar="FILE", help="its key (default: in the certificate's file)")
        add("--metrics", type=_metrics, metavar="PLACE",
            help="answer /health and /metrics there, for all processes; a port alone is one of "
            "127.0.0.1")
        add(
        "--root-path",
        help="where the application is mounted, such as /chat, which a proxy takes off the path",
    )
        add("--proxy-headers", type=_proxies, metavar="ADDRESSES",
            help="believe X-Forwarded-For and -Proto from these addresses or networks, separated "
            "by commas, or unix")

    def _add_behaviour(self, default: Config) -> None:
        add, switch = self._behaviour.add_argument, argparse.BooleanOptionalAction
        add("--processes", type=_number, metavar="N",
            help="run N processes that share the sockets, and start again what ends; 0: only "
            "this one (default)")
        add("--reload", action=switch, help="start anew when a source file changes: to develop")
        add("--access-log", choices=FORMATS, help="a line for each request, to standard error")
        add("--compress", action=switch,
            help="compress WebSocket messages (permessage-deflate): less to send, more CPU")
        add("--ping-seconds", type=_seconds, metavar="S",
            help="ping WebSockets that are silent for so long (default: never)")
        add("--stock", action=switch,
            help="run synchronous consumers and pages through asyncio, as elsewhere: to compare")
        add("--stop-on-eof", action=switch,
            help="stop when standard input ends: with the process that holds its other end")

    def _add_limits(self, default: Config) -> None:
        add = self._limits.add_argument
        for name, kind, meaning in _LIMITS:
            value = getattr(default, name)
            known = "no limit" if value is None else value
            add(f"--{name.replace('_', '-')}", type=kind, metavar="S" if kind is _seconds else "N",
                help=f"{meaning} (default: {known})")

    # fmt: on


def read_options(arguments: Sequence[str] | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """What was said, by name, from all three places. Exits with code 2 when it makes no sense."""
    parser = _Parser()
    said = vars(parser.parse_args(arguments))
    outer = vars(parser.parse_args(_from_environment(parser, environment)))
    file = said.pop("config", None) or outer.pop("config", None)
    inner = vars(parser.parse_args(_from_file(parser, file))) if file else {}
    options = inner | outer | said
    if not options.get("app"):
        parser.error("the following arguments are required: APP")
    if "private_key" in options and "certificate" not in options:
        parser.error("--private-key is of no use without --certificate")
    return options


def config_of(options: Mapping[str, Any]) -> Config:
    """The `Config` that the options ask for."""
    names = ("host", "port", "certificate", "private_key", "access_log", "ping_seconds")
    limits = tuple(name for name, _, _ in _LIMITS)
    return Config(
        **{name: options[name] for name in names + limits if name in options},
        binds=tuple(options.get("bind", ())),
        proxies=tuple(options.get("proxy_headers", ())),
        root_path=options.get("root_path", "").rstrip("/"),
        compression=options.get("compress", False),
    )


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """The command line that says all of `options`: for a process that is to do the same."""
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
    """Each option's name, and whether it is a switch."""
    return {
        action.dest: isinstance(action, argparse.BooleanOptionalAction)
        for action in parser._actions
        if action.dest not in ("help", "app")
    }


def _from_environment(parser: _Parser, environment: Mapping[str, str]) -> list[str]:
    arguments = []
    for name, is_switch in _names(parser).items():
        text = environment.get(PREFIX + name.upper())
        if text and is_switch:
            arguments += _argument(name, _truth(parser, PREFIX + name.upper(), text))
        elif text:
            arguments += _argument(name, text.split() if name == "bind" else text)
    app = environment.get(f"{PREFIX}APP")
    return [*arguments, app] if app else arguments


def _truth(parser: _Parser, name: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() not in ("0", "false", "no", "off"):
        parser.error(f"{name}: got {text!r}, expected true or false")
    return False


def _from_file(parser: _Parser, path: str) -> list[str]:
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
            parser.error(f"{path}: there is no option {key!r}")
    return arguments


# Types: what is said, or an error that tells what was expected.


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
        return checked_bind(text)
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
    ("connections", _count, "at the same time; more are answered with 503"),
    ("head_bytes", _count, "of a request's head, else 431"),
    ("target_bytes", _count, "of a request's target, else 414"),
    ("header_fields", _count, "in a request's head, else 431"),
    ("body_bytes", _count, "of a request's body, else 413"),
    ("message_bytes", _count, "of a WebSocket message, else it is closed with 1009"),
    ("head_seconds", _seconds, "for a head that has begun and a TLS handshake, else 408"),
    ("keep_alive_seconds", _seconds, "between requests, then the connection is closed"),
    ("pong_seconds", _seconds, "for the answer to a ping"),
    ("close_seconds", _seconds, "for a WebSocket peer's answer to our close"),
    ("drain_seconds", _seconds, "for what is in progress when it is told to stop"),
    ("slow_seconds", _seconds, "that a client may leave unread what is sent, else 1013"),
    ("slow_bytes", _count, "kept for a WebSocket client that does not read, else 1013"),
)
