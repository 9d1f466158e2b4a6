"""From "module:attribute" to an `Application`: this module chooses how an application is run.

    an ordinary function (ASGI, esque)     called as it is                    asgi.py
    an ASGI 3 application                  a coroutine behind a bridge        loop/bridge.py
    Django's ASGIHandler                   Django's synchronous handler       fastpath/pages.py
    Channels' ProtocolTypeRouter           each of its parts as above
    Channels consumers behind any of them  called without asyncio             fastpath/patches.py

The last three are the *fast path*; `stock` turns it off. It is taken only in a process that gevent
has patched, because synchronous code runs in greenlets there.

The imports in functions keep Django, Channels and asyncio out of processes that do not use them.

Taught in notebooks/05_asgi_esque.ipynb. Read next: `loop/bridge.py`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from thyme.asgi import Application, MetricFamily, Scope, State, Transport, as_application
from thyme.errors import ApplicationNotFound
from thyme.server.lifespan import Lifespan


def load(spec: str, *, stock: bool = False) -> Application:
    """Import the application that `spec`, "module:attribute", names; see `prepare`.

    Raises `ApplicationNotFound`, which states what was given, what was expected and what to do. An
    error inside the module itself is passed on.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise ApplicationNotFound(
            f"got {spec!r}, expected MODULE:ATTRIBUTE; try multichat.asgi:application"
        )
    if "" not in sys.path:  # like `python -m`: modules in the current folder can be named
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ApplicationNotFound(
            f"there is no module {error.name!r} for {spec!r}; run from the folder that holds it"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ApplicationNotFound(f"{module_name!r} has no attribute {attribute!r}")
        found = getattr(found, name)
    return prepare(found, stock=stock)


def prepare(application: Any, *, stock: bool = False) -> Application:
    """Return an `Application` that runs `application`, of either kind.

    `stock`: run synchronous Django and Channels code through asyncio, as other servers do, instead
    of on the fast path; for comparison. Raises `ApplicationNotFound` if it cannot be called.
    """
    if not callable(application):
        raise ApplicationNotFound(f"got {application!r}, expected a callable application")
    if not is_asgi3(application):
        return as_application(application)
    if not stock and "channels" in sys.modules:
        from thyme.fastpath import patches

        patches.install()
    from thyme.loop.bridge import adapt

    serving = None
    if not stock and "django" in sys.modules:
        serving = _on_fast_path(application)
    return _WithLifespan(serving or adapt(application), Lifespan(adapt(application)))


class _WithLifespan(Application):
    """An adapted application, with the lifespan of the original."""

    def __init__(self, serving: Application, lifespan: Lifespan) -> None:
        self._serving = serving
        self._lifespan = lifespan

    def serve(self, scope: Scope, transport: Transport) -> None:
        """Serve one connection."""
        self._serving.serve(scope, transport)

    def startup(self) -> State:
        """Start the application's lifespan."""
        return self._lifespan.startup()

    def close(self) -> None:
        """End the application's lifespan."""
        self._lifespan.close()

    def metrics(self) -> list[MetricFamily]:
        """Return the metrics of the channel layer, if it has any."""
        layers = sys.modules.get("channels.layers")
        layer = layers and layers.get_channel_layer()
        return list(getattr(layer, "metrics", list)())


def is_asgi3(application: Any) -> bool:
    """Return whether calling `application` gives a coroutine.

    That is so for a coroutine function and for an object whose `__call__` is one, such as Channels'
    routers, the result of its `as_asgi()`, and Django's handler.
    """
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(
        getattr(application, "__call__", None)  # noqa: B004 - its kind is asked, not its presence
    )


def _on_fast_path(application: Any) -> Application | None:
    """Return an `Application` that runs all or parts of `application` without asyncio, if any."""
    from django.core.handlers.asgi import ASGIHandler

    from thyme.fastpath.pages import Pages
    from thyme.loop.event_loop import patched

    if not patched():
        return None
    if type(application) is ASGIHandler:
        return Pages()
    channels_routing = sys.modules.get("channels.routing")
    if channels_routing and type(application) is channels_routing.ProtocolTypeRouter:
        return _ByProtocol(application.application_mapping)
    return None


class _ByProtocol(Application):
    """Channels' `ProtocolTypeRouter`, for applications of both kinds."""

    def __init__(self, applications: dict[str, Any]) -> None:
        self._applications = {name: prepare(found) for name, found in applications.items()}

    def serve(self, scope: Scope, transport: Transport) -> None:
        """Serve the connection with the application for its protocol."""
        application = self._applications.get(scope["type"])
        if application is None:
            raise ValueError(f"No application configured for scope type {scope['type']!r}")
        application.serve(scope, transport)
