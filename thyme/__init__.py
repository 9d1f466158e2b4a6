"""Thyme: a gevent HTTP and WebSocket server, an asyncio loop on gevent's hub, relay and workers.

Importing this package imports nothing else and patches nothing. Each public name is imported when
it is first used, so a program pays only for the parts it needs: `AsgiRelay` runs under any ASGI
server on asyncio and does not import gevent.

Read `server/server.py` first, then `server/connection.py`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
"""The version of the distribution; `pyproject.toml` reads it from here."""

__all__ = [
    "AsgiRelay",
    "Config",
    "Queue",
    "Relay",
    "Server",
    "Window",
    "Worker",
    "__version__",
    "install_loop",
]

if TYPE_CHECKING:
    from thyme.config import Config
    from thyme.loop import install as install_loop
    from thyme.server.server import Server
    from thyme.split.flow_control import Queue, Window
    from thyme.split.relay.asyncio import AsgiRelay
    from thyme.split.relay.gevent import Relay
    from thyme.split.worker.gevent import Worker
else:
    _MODULES = {
        "AsgiRelay": "thyme.split.relay.asyncio",
        "Config": "thyme.config",
        "Queue": "thyme.split.flow_control",
        "Relay": "thyme.split.relay.gevent",
        "Server": "thyme.server.server",
        "Window": "thyme.split.flow_control",
        "Worker": "thyme.split.worker.gevent",
        "install_loop": "thyme.loop",
    }

    def __getattr__(name: str) -> Any:
        """Import the public name `name` (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(_MODULES[name])
        found = getattr(module, "install" if name == "install_loop" else name)
        globals()[name] = found  # the next use does not come here again
        return found

    def __dir__() -> list[str]:
        """Return the names of this module, those that are not imported yet included."""
        return sorted({*globals(), *__all__})
