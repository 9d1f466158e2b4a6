"""Fuzzing what reads from the internet: `python -m tests.thyme.server.fuzz --seconds 60`.

Good streams are mutated (bytes flipped, cut out, doubled, swapped between streams), and fed to the
parser of requests and to the WebSocket protocol, whole and in random pieces. What must hold:

    nothing raises; nothing follows a refusal; memory kept is bounded by what was fed;
    cut anywhere, a stream means the same.

A failure prints the bytes, to be made a test of their own. `--seed` repeats a run.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.thyme.serving import KEY
from thyme.config import Config
from thyme.protocol.http import Refusal
from thyme.protocol.http11 import END, Request, RequestParser
from thyme.protocol.websocket import WebSocket

CONFIG = Config(head_bytes=2000, header_fields=20, body_bytes=5000, message_bytes=3000)
COMPRESSING = Config(compression=True, message_bytes=3000)
HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
)
EXTENSION = "Sec-WebSocket-Extensions: permessage-deflate\r\n"

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://b:80/c?d=e HTTP/1.1\r\nHost: a\r\nCookie: x=y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n"
    b"5;x=y\r\nhello\r\n0\r\nT: v\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"
    b"Content-Length: 2\r\n\r\nhi",
    (HANDSHAKE % EXTENSION).encode(),
]
MASK = b"\1\2\3\4"
SPICES = [b"\r\n", b"\0", b" ", b":", b"\xff", b"Content-Length: 1\r\n", b"chunked", b"\n", b","]


def frame(first: int, payload: bytes) -> bytes:
    """A masked frame (RFC 6455 5.2)."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    masked = bytes(byte ^ MASK[place % 4] for place, byte in enumerate(payload))
    return bytes([first]) + length + MASK + masked


FRAMES = [
    frame(0x81, "grüß".encode()),
    frame(0x82, bytes(range(200))),
    frame(0x01, b"in ") + frame(0x89, b"ping") + frame(0x80, b"parts"),
    frame(0x81, b"x" * 1000),
    frame(0x8A, b""),
    frame(0xC1, b"\xaa\x04\x00"),
    frame(0x88, b"\x03\xe8bye"),
]


def mutated(seeds: list[bytes], chance: random.Random) -> bytes:
    """A stream of some seeds, damaged in a few places, or not at all."""
    stream = bytearray(b"".join(chance.choices(seeds, k=chance.randint(1, 4))))
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        place = chance.randrange(len(stream) + 1)
        match chance.randrange(4):
            case 0:
                stream[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del stream[place : place + chance.randint(1, 8)]
            case 2:
                stream[place:place] = chance.choice(SPICES)
            case _:
                stream[place:place] = stream[place : place + chance.randint(1, 40)]
    return bytes(stream)


def pieces(stream: bytes, chance: random.Random) -> Iterator[bytes]:
    """`stream`, cut at random."""
    while stream:
        size = chance.choice((1, 2, 7, 50, 1000))
        yield stream[:size]
        stream = stream[size:]


def requests_of(parts: Iterator[bytes]) -> list[Any]:
    """What the parser of requests makes of a stream; pieces of a body joined."""
    parser = RequestParser(CONFIG)
    for part in parts:
        parser.feed(part)
        if parser.events and getattr(parser.events[-1], "websocket", False):
            break  # HTTP is over: so does `server/connection.py`
    events: list[Any] = []
    for event in parser.events:
        assert not (events and isinstance(events[-1], Refusal)), "something follows a refusal"
        if isinstance(event, bytes) and events and isinstance(events[-1], bytes):
            events[-1] += event
        else:
            events.append(event)
        assert isinstance(event, Request | bytes | Refusal) or event is END
    if events and isinstance(events[-1], Refusal):
        # Where a body is cut off before a refusal depends on the pieces; that it is refused, not.
        events = [event for event in events if not isinstance(event, bytes)]
    return events


def messages_of(parts: Iterator[bytes], config: Config, head: str) -> list[Any]:
    """What a WebSocket receives, and what it answers."""
    parser = RequestParser(config)
    parser.feed(head.encode())
    request = parser.events.popleft()
    assert isinstance(request, Request)
    websocket = WebSocket(request, config)
    websocket.accept({})
    websocket.data_to_send()  # the handshake's answer, which has the time in it
    answers, events = b"", []
    for part in parts:
        websocket.receive_data(part)
        while True:
            answers += websocket.data_to_send()
            for event in websocket.events:
                assert len(event.get("text") or event.get("bytes") or "") <= config.message_bytes
            events += websocket.events
            websocket.events.clear()
            if not websocket.has_more:
                break
            websocket.receive_data(b"")
    return [*events, answers]


def check_requests(chance: random.Random) -> bytes:
    """One round for the parser of requests; the stream."""
    stream = mutated(REQUESTS, chance)
    _agree(stream, requests_of, chance)
    return stream


def check_websocket(chance: random.Random) -> bytes:
    """One round for the WebSocket protocol; the stream."""
    stream = mutated(FRAMES, chance)
    for config, extension in ((CONFIG, ""), (COMPRESSING, EXTENSION)):
        head = HANDSHAKE % extension
        _agree(stream, lambda parts: messages_of(parts, config, head), chance)  # noqa: B023
    return stream


def _agree(
    stream: bytes, meaning: Callable[[Iterator[bytes]], list[Any]], chance: random.Random
) -> None:
    cut = list(pieces(stream, chance))
    try:
        whole, piecewise = meaning(iter([stream])), meaning(iter(cut))
        assert whole == piecewise, f"it means {whole} whole, and {piecewise} in pieces"
    except Exception as error:
        raise AssertionError(f"{stream!r}\nin pieces {cut!r}") from error


def fuzz(seconds: float, seed: int, least: int = 0) -> int:
    """Run for so long, and for so many streams at least; how many were tried."""
    chance = random.Random(seed)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end or count < least:
        check_requests(chance)
        check_websocket(chance)
        count += 2
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fuzz the server's two protocols.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"fuzzing for {options.seconds:g} s, seed {options.seed}", flush=True)
    sys.stdout.write(f"{fuzz(options.seconds, options.seed)} streams, nothing found\n")
