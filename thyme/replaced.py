"""Everything of other packages that thyme replaces, overrides or reads although it is not public.

A public API is stable; these names are not. So they are listed here, each with the reason, and the
list is checked when it matters: `thyme.loop.install()` checks "asyncio", "gevent" and "asgiref",
and the fast path checks "channels" before it is switched on. A name that has disappeared is
reported at start-up, with the versions that thyme was tried with, and not by an odd error under
load.

A new entry is needed whenever code of ours assigns to an attribute of another package, overrides a
method that its documentation does not mention, or uses a name that begins with an underscore.
"""

from __future__ import annotations

import importlib
import platform
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from thyme.errors import Incompatible

How = Literal["replaced", "overridden", "used"]

TRIED: dict[str, tuple[str, str]] = {
    "asyncio": ("3.11", "3.13"),  # the version of Python
    "gevent": ("26.9.0", "26.9.0"),
    "asgiref": ("3.13.0", "3.13.0"),
    "channels": ("4.3.2", "4.3.2"),
}
"""Per package, the oldest and the newest version that the test suite has passed with."""


@dataclass(frozen=True, slots=True)
class Name:
    """One name of another package.

    `path` is "module:attribute.attribute"; `how` thyme depends on it; `where` in thyme; `why`.
    `since`: the first version of Python that has it, None for all. `optional`: thyme works without
    it, so its absence is no error.
    """

    package: str
    path: str
    how: How
    where: str
    why: str
    since: tuple[int, int] | None = None
    optional: bool = False


def _names(package: str, where: str, how: How, why: str, *paths: str) -> tuple[Name, ...]:
    return tuple(Name(package, path, how, where, why) for path in paths)


NAMES: tuple[Name, ...] = (
    # -- channels: the fast path
    *_names(
        "channels",
        "fastpath/patches.py",
        "replaced",
        "a synchronous consumer is called in its connection's greenlet, not in a thread",
        "channels.consumer:SyncConsumer.__call__",
    ),
    *_names(
        "channels",
        "fastpath/patches.py",
        "replaced",
        "one coroutine takes events and messages as they come, without a task for each",
        "channels.consumer:await_many_dispatch",
    ),
    *_names(
        "channels",
        "fastpath/patches.py",
        "replaced",
        "no hop to a thread that has opened no database connection",
        "channels.consumer:aclose_old_connections",
        "channels.generic.websocket:aclose_old_connections",
        "channels.generic.http:aclose_old_connections",
    ),
    *_names(
        "channels",
        "fastpath/sync_consumers.py",
        "used",
        "what Channels' own `__call__` and session middleware do, done without coroutines",
        "channels.consumer:AsyncConsumer.__call__",
        "channels.consumer:SyncConsumer.dispatch",
        "channels.consumer:get_handler_name",
        "channels.sessions:InstanceSessionWrapper",
    ),
    # -- asgiref: where synchronous code of a connection runs
    *_names(
        "asgiref",
        "loop/shared.py",
        "replaced",
        "`async_to_sync` in a greenlet uses the shared loop instead of creating one for each call",
        "asgiref.sync:SyncToAsync.threadlocal",
    ),
    *_names(
        "asgiref",
        "fastpath/async_consumers.py",
        "used",
        "finds the executor in which asgiref would run thread-sensitive code of this task",
        "asgiref.sync:AsyncToSync.executors",
        "asgiref.sync:SyncToAsync.thread_sensitive_context",
        "asgiref.sync:SyncToAsync.context_to_thread_executor",
    ),
    # -- asyncio: a running loop per greenlet
    *_names(
        "asyncio",
        "loop/running.py",
        "used",
        "the thread's asyncio state is saved and restored when the loop's greenlet switches",
        "asyncio.events:_get_running_loop",
        "asyncio.events:_set_running_loop",
    ),
    Name(
        "asyncio",
        "asyncio.tasks:_swap_current_task",
        "used",
        "loop/running.py",
        "the current task is kept per thread from Python 3.14 on",
        since=(3, 14),
    ),
    *_names(
        "asyncio",
        "loop/event_loop.py",
        "replaced",
        "loops that asyncio and asgiref create are `HubLoop`s",
        "asyncio:set_event_loop_policy",
    ),
    *_names(
        "asyncio",
        "loop/event_loop.py",
        "overridden",
        "waking needs no self-pipe; child processes are gevent's; `run_inline` needs no handle",
        "asyncio:SelectorEventLoop.call_soon",
        "asyncio:SelectorEventLoop.run_in_executor",
        "asyncio:SelectorEventLoop.add_signal_handler",
        "asyncio:SelectorEventLoop._make_self_pipe",
        "asyncio:SelectorEventLoop._close_self_pipe",
        "asyncio:SelectorEventLoop._write_to_self",
        "asyncio:SelectorEventLoop._make_subprocess_transport",
    ),
    *_names(
        "asyncio",
        "loop/event_loop.py",
        "used",
        "what the overridden methods of asyncio's own loop do, too",
        "asyncio:SelectorEventLoop._check_closed",
        "asyncio:SelectorEventLoop._check_running",
        "asyncio:SelectorEventLoop._check_signal",
        "asyncio:SelectorEventLoop._check_callback",
        "asyncio:SelectorEventLoop._check_default_executor",
        "asyncio:SelectorEventLoop._handle_signal",
        "asyncio:SelectorEventLoop._asyncgen_firstiter_hook",
        "asyncio:SelectorEventLoop._asyncgen_finalizer_hook",
        "asyncio.unix_events:_UnixSubprocessTransport._process_exited",
        "asyncio.unix_events:_UnixSubprocessTransport._wait",
    ),
    *_names(
        "asyncio",
        "loop/selector.py",
        "overridden",
        "registration and its errors are the standard library's; only the waiting is ours",
        "selectors:_BaseSelectorImpl.register",
        "selectors:_BaseSelectorImpl.unregister",
        "selectors:_BaseSelectorImpl.close",
    ),
    # -- gevent
    *_names(
        "gevent",
        "loop/running.py",
        "overridden",
        "set on the one greenlet that runs a loop: these are the points at which it switches",
        "gevent:Greenlet.switch",
        "gevent:Greenlet.throw",
    ),
    Name(
        "gevent",
        "gevent.os:_closing_fd_to_event",
        "used",
        "loop/selector.py",
        "descriptors that a patched `os.close` closes after the next poll; asks for that poll",
        optional=True,  # new in gevent 26
    ),
    *_names(
        "gevent",
        "management/commands/runserver.py",
        "replaced",
        "Ctrl-C ends the reloader without a traceback of the hub",
        "gevent.hub:Hub.NOT_ERROR",
    ),
)


@cache
def check(*packages: str) -> None:
    """Raise `Incompatible` if a name of these packages that thyme depends on has disappeared."""
    for name in NAMES:
        expected = not name.optional and (name.since is None or sys.version_info >= name.since)
        if expected and name.package in packages:
            _check(name)


def _check(name: Name) -> None:
    module, _, attributes = name.path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        oldest, newest = TRIED[name.package]
        raise Incompatible(
            f"{name.package} {_installed(name.package)} has no {name.path}, which "
            f"thyme/{name.where} needs ({name.why}); install a version from {oldest} to {newest}"
        ) from error


def _installed(package: str) -> str:
    return platform.python_version() if package == "asyncio" else version(package)
