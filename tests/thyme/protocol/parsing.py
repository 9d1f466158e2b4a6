"""What the tests of the HTTP/1.1 parser share: requests, and the events that they give."""

from __future__ import annotations

from thyme.config import Config
from thyme.protocol.http import HTTPEvent, Refusal, Request
from thyme.protocol.http11 import RequestParser

HOST = b"Host: example.org\r\n"


GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


def events(*pieces: bytes, config: Config | None = None) -> list[HTTPEvent]:
    parser = RequestParser(config or Config())
    for piece in pieces:
        parser.feed(piece)
    return list(parser.events)


def request(data: bytes) -> Request:
    first = events(data)[0]
    assert isinstance(first, Request), first
    return first


def refusal(data: bytes, config: Config | None = None) -> int:
    """The status that the last event refuses with."""
    last = events(data, config=config)[-1]
    assert isinstance(last, Refusal), last
    return last.status


def joined(found: list[HTTPEvent]) -> list[HTTPEvent]:
    """The same events with neighbouring pieces of body made one."""
    result: list[HTTPEvent] = []
    for event in found:
        if isinstance(event, bytes) and result and isinstance(result[-1], bytes):
            result[-1] += event
        else:
            result.append(event)
    return result
