"""The fast path for Django's pages: Django's synchronous handler, in the request's greenlet.

Under ASGI, Django prepares each page for coroutines and then hands synchronous views, middleware
and signals over to a thread, several times a page: about 2 ms of CPU. Here the same handler class
is used with a synchronous chain of middleware, as under WSGI, and called directly. Requests are
still `ASGIRequest`s with their `scope`; asynchronous views and iterators still work, on the loop.

An `ASGIHandler` that is subclassed or wrapped stays on Django's own path (`loading.py` decides).
Read next: `patches.py`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from io import BytesIO
from typing import IO, Any

import gevent
from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.http import FileResponse
from django.urls import set_script_prefix

from thyme.asgi import Application, Receive, Scope, Send, Transport
from thyme.errors import Disconnected
from thyme.loop.event_loop import HubLoop
from thyme.loop.shared import run_on_loop, shared_loop, use_for_async_to_sync


class _Handler(ASGIHandler):
    """Django's ASGI handler with a synchronous chain of middleware."""

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)


class Pages(Application):
    """Django's pages: what `ASGIHandler` does, without its coroutines."""

    def __init__(self) -> None:
        self.handler = _Handler()

    def serve(self, scope: Scope, transport: Transport) -> None:
        """Answer one request."""
        use_for_async_to_sync(shared_loop())
        body = read_body(transport.receive)
        if body is None:
            return  # the peer left before it had sent everything
        with closing(body):
            response = self._response(scope, body)
            try:
                send_response(response, transport.send, transport.receive)
            except Disconnected:
                pass
            finally:
                response.close()  # sends request_finished

    def _response(self, scope: Scope, body: IO[bytes]) -> Any:
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=ASGIHandler, scope=scope)
        request, response = self.handler.create_request(scope, body)
        if request is not None:
            response = self.handler.get_response(request)
            if isinstance(response, FileResponse):
                response.block_size = ASGIHandler.chunk_size
        response._handler_class = ASGIHandler
        return response


def read_body(receive: Receive) -> IO[bytes] | None:
    """Return the request's body as a file, or None when the peer has left.

    It is a file on disk above Django's FILE_UPLOAD_MAX_MEMORY_SIZE (bytes).
    """
    event = receive()
    if event["type"] == "http.disconnect":
        return None
    if not event.get("more_body"):
        return BytesIO(event.get("body", b""))
    memory = settings.FILE_UPLOAD_MAX_MEMORY_SIZE
    body: Any = tempfile.SpooledTemporaryFile(max_size=memory)  # noqa: SIM115 - the caller closes
    body.write(event.get("body", b""))
    while event.get("more_body"):
        event = receive()
        if event["type"] == "http.disconnect":
            body.close()
            return None
        body.write(event.get("body", b""))
    body.seek(0)
    whole: IO[bytes] = body
    return whole


def send_response(response: Any, send: Send, receive: Receive) -> None:
    """Send Django's response as ASGI events."""
    headers = [(name.encode("ascii"), value.encode("latin1")) for name, value in response.items()]
    for cookie in response.cookies.values():
        headers.append((b"Set-Cookie", cookie.output(header="").encode("ascii").strip()))
    start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    send(start)
    if not response.streaming:
        for chunk, last in ASGIHandler.chunk_bytes(response.content):
            send({"type": "http.response.body", "body": chunk, "more_body": not last})
        return
    parts = _awaited_parts(response, receive) if response.is_async else iter(response)
    for part in parts:
        for chunk, _ in ASGIHandler.chunk_bytes(part):
            send({"type": "http.response.body", "body": chunk, "more_body": True})
    send({"type": "http.response.body"})


def _awaited_parts(response: Any, receive: Receive) -> Iterator[bytes]:
    """Yield the parts of an asynchronous iterator, each awaited on the loop.

    Ends when the peer leaves: such a response may wait for hours between two parts (server-sent
    events), so a greenlet watches for the disconnect.
    """
    loop = shared_loop()
    content: AsyncIterator[bytes] = aiter(response)
    step = _NextPart(loop, content)
    watcher = gevent.spawn(_on_disconnect, receive, step.cancel)
    try:
        while (part := step.next()) is not None:
            yield part
    finally:
        watcher.kill()
        close = getattr(content, "aclose", None)
        if close is not None:
            run_on_loop(loop, close())


def _on_disconnect(receive: Receive, then: Callable[[], None]) -> None:
    while receive()["type"] != "http.disconnect":
        pass
    then()


class _NextPart:
    """Take the parts of an asynchronous iterator in a greenlet; can be cancelled from another."""

    def __init__(self, loop: HubLoop, content: AsyncIterator[bytes]) -> None:
        self.loop = loop
        self.content = content
        self.task: asyncio.Task[Any] | None = None
        self.cancelled = False

    def next(self) -> bytes | None:
        """Return the next part; None at the end, and after `cancel()`."""
        if self.cancelled:
            return None
        try:
            part: bytes | None = run_on_loop(self.loop, self._next())
        except asyncio.CancelledError:
            return None
        return part

    async def _next(self) -> bytes | None:
        self.task = asyncio.current_task()
        return await anext(self.content, None)

    def cancel(self) -> None:
        """End the wait for a part, and the iteration."""
        self.cancelled = True
        if self.task is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)
