"""The types of ASGI, and of its blocking variant "ASGI (esque)".

ASGI (esque) has ASGI's scope, its events and their order, but no `await`:
`application(scope, receive, send)` is an ordinary function that runs in its own greenlet, and
`receive()` and `send()` block that greenlet only.

This module imports nothing of ours. Taught in notebooks/05_asgi_esque.ipynb.
Specification: https://asgi.readthedocs.io/en/latest/specs/main.html
Read next: `loading.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Event]
Send = Callable[[Event], None]
EsqueApplication = Callable[[Scope, Receive, Send], None]
ASGI3Application = Callable[
    [Scope, Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]
]
