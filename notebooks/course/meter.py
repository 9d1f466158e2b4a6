"""The meter: what the sprig can do, as of a chapter, tried from outside and drawn.

    meter.run(workspace)
    meter.run(workspace, heard)     where a conversation in the chat has just been heard

A chapter tries what it has just added; what was added before is drawn as it was claimed, and
tests/notebooks/test_sprig.py tries every claim again. Where possible, the tests are the project's
own; the real system passes all of them.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from course import chat as people
from course.figures import Figure
from course.scratch import ROOT
from course.sprig import Workspace

SECONDS = 20.0  # for one program to do its part
SILENT = 300  # connections that say nothing
Outcome = tuple[int, int]  # passed, of how many


@dataclass(frozen=True)
class Capability:
    """Something that the sprig can do from a chapter on; `claim`: how many tests pass there."""

    chapter: int
    name: str
    claim: Outcome
    measure: Callable[..., Outcome]
    in_chat: bool = False  # then it is measured by what `course.chat.conversation` returns


# --- the ways to try ------------------------------------------------------------------------


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of a URL."""
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 80)


def serve(stack: ExitStack, workspace: Workspace) -> tuple[str, int]:
    """Run the server of a chapter with its demonstration; return where it listens."""
    arguments = ["sprig.demo:application"] if workspace.chapter >= 5 else []
    program, url = workspace.serve(*arguments)
    stack.callback(program.end)
    return address_of(url)


def exchange(address: tuple[str, int], request: bytes) -> bytes:
    """Send bytes, and nothing more; return all that comes until the server closes."""
    with socket.create_connection(address, timeout=SECONDS) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
        return b"".join(pieces)


def a_page(workspace: Workspace) -> Outcome:
    """A request is answered with a page."""
    with ExitStack() as stack:
        answer = exchange(serve(stack, workspace), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return int(answer.startswith(b"HTTP/1.1 200") and b"</h1>" in answer), 1


def many(workspace: Workspace) -> Outcome:
    """Silent connections hold nobody up, and each is answered once it speaks."""
    with ExitStack() as stack:
        address = serve(stack, workspace)
        silent = [
            stack.enter_context(socket.create_connection(address, timeout=SECONDS))
            for _ in range(SILENT)
        ]
        passed = a_page(workspace)[0]
        for connection in silent:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        passed += sum(connection.recv(12) == b"HTTP/1.1 200" for connection in silent)
    return passed, SILENT + 1


def kept(workspace: Workspace) -> Outcome:
    """Requests of all kinds on one connection, answered in order."""
    chunks = [b"x" * 40_000, b"y" * 40_000]
    with ExitStack() as stack:
        connection = stack.enter_context(
            closing(http.client.HTTPConnection(*serve(stack, workspace), timeout=SECONDS))
        )
        requests: list[tuple[str, Any, bool]] = [
            ("GET", None, False),
            ("POST", b"a body with a length", False),
            ("POST", iter(chunks), True),
            ("HEAD", None, False),
            ("POST", b"", False),
        ]
        passed = 0
        for method, body, chunked in requests:
            connection.request(method, "/", body, encode_chunked=chunked)
            response = connection.getresponse()
            expected = b"".join(chunks) if chunked else body
            content = response.read()
            passed += response.status == 200 and (method != "POST" or content == expected)
    return passed, len(requests)


HOST = b"Host: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
AMBIGUOUS = [  # requests that two programs could understand differently
    b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n-1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b" folded: line\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Host: b\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/3.0\r\n" + HOST + b"\r\n",
]


def ambiguous(workspace: Workspace) -> Outcome:
    """Each of these is refused, once, and nothing that follows it is served."""
    follower = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    with ExitStack() as stack:
        address = serve(stack, workspace)
        answers = [exchange(address, request + follower) for request in AMBIGUOUS]
    once = [answer.count(b"HTTP/1.1 ") == 1 for answer in answers]
    refused = [answer[9:12] in (b"400", b"501", b"505") for answer in answers]
    return sum(map(all, zip(once, refused, strict=True))), len(AMBIGUOUS)


def project_tests(arguments: list[str], workspace: Workspace) -> Outcome:
    """Run tests of the project on the sprig; on_sprig.py puts it in the place of the real one."""
    places = f"{workspace.path}:{ROOT}:{ROOT / 'notebooks'}"
    ended = subprocess.run(  # noqa: S603 - the arguments are below
        [sys.executable, "-m", "course.on_sprig", *arguments],
        cwd=ROOT,
        env=people.scratch.environment(workspace.path, PYTHONPATH=places),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    try:
        counted = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        counted = {"total": 0}
    if not counted["total"]:
        raise RuntimeError(f"the tests did not run:\n{ended.stdout}\n{ended.stderr}")
    return counted["passed"], counted["total"]


def a_conversation(heard: dict[str, object]) -> Outcome:
    """Two people talk in the finished chat, and a third one is refused the staff room."""
    return sum(heard[what] == people.EXPECTED[what] for what in heard), len(people.EXPECTED)


# A fixed list, so that new tests of the server change no chapter.
LIFE = " or ".join(
    (
        "serves_request_after_request",
        "pipelined_requests",
        "pieces_of_one_byte",
        "connection_close_is_obeyed",
        "http_1_0",
        "is_refused_is_answered",
        "body_streams_both_ways",
        "large_body_arrives_whole",
        "slow_reader_blocks_send",
        "does_not_receive_stops_the_peer",
        "raises_before_its_response",
        "raises_inside_its_response",
        "drained_and_the_connection_kept",
        "scope_names_both_ends",
    )
)
CAPABILITIES = (
    Capability(1, "answers a page", (1, 1), a_page),
    Capability(2, f"{SILENT} silent connections", (SILENT + 1, SILENT + 1), many),
    Capability(3, "requests on one connection", (5, 5), kept),
    Capability(3, "refuses what is ambiguous", (15, 15), ambiguous),
    Capability(
        4,
        "WebSocket conformance",
        (128, 128),
        partial(project_tests, ["tests/thyme/server/test_conformance.py"]),
    ),
    Capability(
        5,
        "the life of a connection",
        (15, 22),
        partial(
            project_tests,
            [
                *(f"tests/thyme/server/test_{each}.py" for each in ("connection", "http_cycle")),
                "-k",
                LIFE,
            ],
        ),
    ),
    Capability(6, "multichat, one process", (4, 4), a_conversation, in_chat=True),
    Capability(
        7,
        "Channels' layer contract",
        (19, 19),
        partial(project_tests, ["tests/contract/test_channel_layer.py", "-k", "gevent-valkey"]),
    ),
    Capability(8, "multichat, two servers", (4, 4), a_conversation, in_chat=True),
    Capability(9, "… and two workers", (4, 4), a_conversation, in_chat=True),
    Capability(10, "… on two connections", (4, 4), a_conversation, in_chat=True),
    Capability(13, "… after kill -9", (4, 4), a_conversation, in_chat=True),
)


def run(workspace: Workspace, heard: dict[str, object] | None = None) -> Figure:
    """Try what this chapter has added, and draw what the sprig can do now."""
    outcomes = {each: each.claim for each in CAPABILITIES if each.chapter < workspace.chapter}
    for each in CAPABILITIES:
        if each.chapter == workspace.chapter:
            outcomes[each] = each.measure(heard if each.in_chat else workspace)
    return draw(workspace, outcomes)


def draw(workspace: Workspace, outcomes: dict[Capability, Outcome]) -> Figure:
    """Draw one bar for each capability: passed of all, this chapter's in amber."""
    said = [f"{each.name}: {passed} of {total}" for each, (passed, total) in outcomes.items()]
    title = f"What the sprig can do after chapter {workspace.chapter:02}. {'; '.join(said)}."
    figure = Figure(760, 44 + 26 * len(outcomes), title)
    lines = sum(len(text.splitlines()) for text in workspace.files.values())
    head = f"chapter {workspace.chapter:02}: {len(workspace.files)} files, {lines} lines"
    figure.text(10, 22, head, anchor="start", bold=True)
    for row, (each, (passed, total)) in enumerate(outcomes.items()):
        y = 52 + 26 * row
        figure.text(10, y, f"{each.chapter:02}  {each.name}", anchor="start")
        figure.box(260, y - 13, 400, 17, "", "pale")
        kind = "store" if each.chapter == workspace.chapter else "ours"
        if passed:
            figure.box(260, y - 13, round(400 * passed / total), 17, "", kind)
        figure.text(750, y, f"{passed} of {total}", anchor="end")
    return figure
