"""The short way for Django's pages: its own synchronous handler, in the request's greenlet.

Under ASGI Django prepares each page for coroutines and then hands its synchronous views, middleware
and signals over to a thread, several times a page: about 2 ms of CPU. Here the same handler class
is used with a synchronous chain of middleware, as under WSGI, and called directly. Requests stay
`ASGIRequest`s with their `scope`; asynchronous views and iterators still work, on the loop.

What stays stock: an `ASGIHandler` that somebody has subclassed or wrapped.
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

from thyme.asgi import Event, Receive, Scope, Send
from thyme.errors import Disconnected
from thyme.loop.event_loop import HubLoop
from thyme.loop.shared import belong_to, on_loop, shared_loop


class _Handler(ASGIHandler):
    """Django's ASGI handler with a synchronous chain of middleware."""

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)


class Pages:
    """Django's pages as an esque application; as `ASGIHandler`, without its coroutines."""

    def __init__(self) -> None:
        self.handler = _Handler()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request and its response."""
        belong_to(shared_loop())
        body = read_body(receive)
        if body is None:
            return  # the peer left before it had sent all
        with closing(body):
            response = self._response(scope, body)
            try:
                send_response(response, send, receive)
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
    """The request's body as a file; None when the peer has left.

    Above Django's FILE_UPLOAD_MAX_MEMORY_SIZE (bytes) it is a file on disk.
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
    """The parts of an asynchronous iterator, each awaited on the loop; ends when the peer leaves.

    Such a response may wait for hours between two parts (server-sent events), so somebody must
    watch for the disconnect.
    """
    loop = shared_loop()
    content: AsyncIterator[bytes] = aiter(response)
    step = _Step(loop, content)
    watcher = gevent.spawn(_when_gone, receive, step.cancel)
    try:
        while (part := step.next()) is not None:
            yield part
    finally:
        watcher.kill()
        close = getattr(content, "aclose", None)
        if close is not None:
            on_loop(loop, close())


def _when_gone(receive: Receive, then: Callable[[], None]) -> None:
    event: Event = receive()
    while event["type"] != "http.disconnect":
        event = receive()
    then()


class _Step:
    """The next part of an asynchronous iterator, waited for in a greenlet; can be cancelled."""

    def __init__(self, loop: HubLoop, content: AsyncIterator[bytes]) -> None:
        self.loop = loop
        self.content = content
        self.task: asyncio.Task[Any] | None = None
        self.gone = False

    def next(self) -> bytes | None:
        """None at the end, and when the peer has left."""
        if self.gone:
            return None
        try:
            part: bytes | None = on_loop(self.loop, self._next())
        except asyncio.CancelledError:
            return None
        return part

    async def _next(self) -> bytes | None:
        self.task = asyncio.current_task()
        return await anext(self.content, None)

    def cancel(self) -> None:
        """The peer has left."""
        self.gone = True
        if self.task is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)
