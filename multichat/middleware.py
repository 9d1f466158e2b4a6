"""Two middlewares with a synchronous and an asynchronous form: static files and a header.

Under ASGI, Django adapts a middleware that is synchronous only with two changes between coroutine
and thread per request, which these two avoid.
"""

from collections.abc import Awaitable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware


class StaticFiles(WhiteNoiseMiddleware):
    """WhiteNoise with an asynchronous form, and with responses that are not streamed.

    Django's ASGI handler cannot iterate an ordinary file without a thread: it warns and reads the
    whole file into memory. The files are small, so they are read at once here.
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
    """Allows the browser to run only scripts and styles that are files of this site.

    Disabled while DEBUG is on, because Django's debug pages have inline styles and scripts.
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
