"""Two pieces of middleware that work in both of Django's modes without a hop between them.

Under ASGI, Django wraps a middleware that is only synchronous in two bridges between coroutine
and thread, for every request. These two have both forms. What they decide is what to serve as
a static file (WhiteNoise knows) and which header to add.
"""

from collections.abc import Awaitable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware


class StaticFiles(WhiteNoiseMiddleware):
    """WhiteNoise, with a form for ASGI, and answers that are whole.

    WhiteNoise streams files; Django's ASGI side cannot iterate an ordinary file without a
    thread, warns, and collects it in memory anyway. These files are small.
    """

    async_capable = True

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        file = self.find(request.path_info)
        if iscoroutinefunction(self):
            return self.answer(file, request)
        return self.get_response(request) if file is None else self.serve(file, request)

    def find(self, path: str) -> Any:
        return self.find_file(path) if self.autorefresh else self.files.get(path)

    async def answer(self, file: Any, request: HttpRequest) -> HttpResponse:
        if file is None:
            return await self.get_response(request)
        return self.serve(file, request)

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        found = static_file.get_response(request.method, request.META)
        content = b""
        if found.file is not None:
            with found.file:
                content = found.file.read()
        response = HttpResponse(content, status=int(found.status))
        del response["Content-Type"]  # Django's default; the file's own is among the headers
        for name, value in found.headers:
            response[name] = value
        return response


class ContentSecurityPolicy:
    """Tells the browser to run nothing that this site did not send as a file of its own.

    Not while debugging, because Django's debug pages carry their styles and scripts inside.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if iscoroutinefunction(self):
            return self.answer(request)
        return self.with_policy(self.get_response(request))

    async def answer(self, request: HttpRequest) -> HttpResponse:
        return self.with_policy(await self.get_response(request))

    @staticmethod
    def with_policy(response: HttpResponse) -> HttpResponse:
        if not settings.DEBUG:
            response.headers["Content-Security-Policy"] = settings.CONTENT_SECURITY_POLICY
        return response
