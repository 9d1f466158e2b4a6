"""What an application is: ASGI (esque).

ASGI's scope, events and their order, but no `await`: `application(scope, receive, send)` is an
ordinary function that runs in a greenlet of its own; `receive()` and `send()` block that greenlet
and nobody else. An ASGI 3 application (coroutines: stock Channels, Django's ASGI handler) is
adapted to this once, when it is loaded.

This file decides which way an application is run. How coroutines meet greenlets is
`loop/bridge.py`'s business; the ways around that bridge for synchronous Django code are in
`fastpath/pages.py` and `fastpath/sync_consumers.py`.

Taught in notebooks/05_asgi_esque.ipynb.
Specification: https://asgi.readthedocs.io/en/latest/specs/main.html
Read next: `loop/bridge.py`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from thyme.asgi import BlockingApplication, Receive, Scope, Send
from thyme.errors import ApplicationNotFound


def load(spec: str, *, stock: bool = False) -> BlockingApplication:
    """The application that `spec`, "module:attribute", names, ready to be called in a greenlet.

    An ASGI 3 application is adapted; with `stock` its synchronous parts go through asyncio as they
    would elsewhere, instead of the short way. Raises `ApplicationNotFound`, with what was got,
    what was expected and what to do; an error inside the module itself is left as it is.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise ApplicationNotFound(
            f"got {spec!r}, expected MODULE:ATTRIBUTE; try multichat.asgi:application"
        )
    if "" not in sys.path:  # like `python -m`: what is in this folder can be named
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
    return esque(found, stock=stock)


def esque(application: Any, *, stock: bool = False) -> BlockingApplication:
    """`application` itself when it is an ordinary callable, else its adaptation."""
    if not callable(application):
        raise ApplicationNotFound(f"got {application!r}, expected a callable application")
    if not is_asgi3(application):
        ordinary: BlockingApplication = application
        return ordinary
    if not stock and "channels" in sys.modules:
        from thyme.fastpath import patches

        patches.install()
    from thyme.loop.bridge import adapt
    from thyme.server.lifespan import with_lifespan

    serve = None
    if not stock and "django" in sys.modules:
        serve = short_way(application)
    served: Any = with_lifespan(serve or adapt(application), adapt(application))
    served.metrics = _layer_metrics
    return served  # type: ignore[no-any-return]


def _layer_metrics() -> list[Any]:
    """What the channel layer counts, if there is one that does: figures for `server/status.py`."""
    layers = sys.modules.get("channels.layers")
    layer = layers and layers.get_channel_layer()
    return list(getattr(layer, "metrics", list)())


def is_asgi3(application: Any) -> bool:
    """Whether calling `application` gives a coroutine (a coroutine function, or such a `__call__`).

    Channels' `as_asgi()` and routers and Django's handler all do.
    """
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(
        getattr(application, "__call__", None)  # noqa: B004 - its kind is asked, not its presence
    )


def short_way(application: Any) -> BlockingApplication | None:
    """The short way for `application`, when all of it or its parts by protocol have one."""
    from django.core.handlers.asgi import ASGIHandler

    from thyme.fastpath.pages import Pages
    from thyme.loop.event_loop import patched

    if not patched():
        return None
    if type(application) is ASGIHandler:
        return Pages()
    channels_routing = sys.modules.get("channels.routing")
    if channels_routing and type(application) is channels_routing.ProtocolTypeRouter:
        return _by_protocol(application.application_mapping)
    return None


def _by_protocol(applications: dict[str, Any]) -> BlockingApplication:
    """Channels' `ProtocolTypeRouter` for esque applications."""
    esque_applications = {name: esque(found) for name, found in applications.items()}

    def route(scope: Scope, receive: Receive, send: Send) -> None:
        application = esque_applications.get(scope["type"])
        if application is None:
            raise ValueError(f"No application configured for scope type {scope['type']!r}")
        application(scope, receive, send)

    return route
