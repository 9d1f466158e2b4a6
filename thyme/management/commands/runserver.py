"""`manage.py runserver` on thyme, for development.

Django uses this command if INSTALLED_APPS lists "thyme" before "django.contrib.staticfiles". It has
the options of Django's own, the checks, the reloader, and static files while DEBUG is on. It serves
ASGI_APPLICATION, so WebSockets work, too. Use `python -m thyme` in production.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import gevent
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.contrib.staticfiles.management.commands import runserver
from django.core.management.base import CommandError
from django.utils import autoreload
from gevent import monkey

from thyme.asgi import Application, Scope, State, Transport


class Command(runserver.Command):
    """Serve ASGI_APPLICATION with thyme, and restart when its source changes."""

    help = "Serves the project's ASGI_APPLICATION with thyme, for development."

    def execute(self, *args: Any, **options: Any) -> Any:
        """Run the command in a patched process: this one, or a new one in its place."""
        if not monkey.is_module_patched("socket"):
            command = [sys.executable, "-m", "gevent.monkey", *sys.argv]
            os.execv(sys.executable, command)  # noqa: S606 - our own arguments, no shell
        hub = gevent.get_hub()  # Ctrl-C stops the reloader and its child; do not print it
        hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)
        return super().execute(*args, **options)

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Check the project and serve it. The reloader runs this in a new process each time."""
        from psycogreen.gevent import patch_psycopg

        from thyme import loop
        from thyme.config import Config
        from thyme.server import access_log as accesslog
        from thyme.server.server import Server
        from thyme.supervisor import READY
        from thyme.supervisor.signals import on_signals

        autoreload.raise_last_exception()
        if not options["skip_checks"]:
            self.check(display_num_errors=True)
            self.check_migrations()
        patch_psycopg()
        loop.install()
        accesslog.to_standard_error()
        static = options["use_static_handler"] and (settings.DEBUG or options["insecure_serving"])
        config = Config(host=self.addr, port=int(self.port), access_log="common", drain_seconds=0)
        server = Server(development_application(static=static), config)
        try:
            server.start()
        except OSError as error:
            address = f"{self.addr}:{self.port}"
            raise CommandError(f"cannot listen on {address}: {error.strerror or error}") from error
        if not options["use_reloader"]:
            on_signals((signal.SIGTERM, signal.SIGINT), server.stop)
        self.stdout.write(f"{READY}{server.urls[0]}")
        self.stdout.flush()
        server.serve_forever()


def development_application(*, static: bool) -> Application:
    """Return the project's application; with `static`, it also serves the apps' static files."""
    from thyme.loading import load

    module, _, attribute = settings.ASGI_APPLICATION.rpartition(".")
    project = load(f"{module}:{attribute}")
    return _WithStaticFiles(project) if static else project


class _WithStaticFiles(Application):
    """The project's application, and the static files that Django's finders know."""

    def __init__(self, project: Application) -> None:
        from thyme.loop.bridge import adapt

        self._project = project
        handler = ASGIStaticFilesHandler(project)
        self._files = adapt(handler)
        self._base_url = handler.base_url

    def startup(self) -> State | None:
        """Start the project's application."""
        return self._project.startup()

    def close(self) -> None:
        """Close the project's application."""
        self._project.close()

    def serve(self, scope: Scope, transport: Transport) -> None:
        """Serve one connection with the project, or a request for a static file."""
        base = self._base_url
        is_file = scope["type"] == "http" and scope["path"].startswith(base.path)
        application = self._files if is_file and not base.netloc else self._project
        application.serve(scope, transport)
