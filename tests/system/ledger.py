"""A crowd that chats while things are killed, and the ledger of what it said and heard.

Two hundred people (websockets' own client on asyncio: nothing of ours) sit in rooms, talk, move,
and come back when a server has left them. Each writes down what it said and what it heard, and
when. `accounts` then asks what must hold of all that, whatever was killed in between:

- a line is heard at most once by each page, and by nobody who is not in its room;
- a line whose sender has heard it was accepted: all who were in the room then have heard it. Not
  asked of lines around the death of a process (`Deaths`): who was killed hears nothing, and
  delivery to the dead is at most once. Cut connections to Redis and polite stops excuse nothing;
- no page is cut off, or not let in, unless its server has just died: sockets outlive workers. How
  often a worker or a connection to Redis was ended before is no excuse.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

PAUSE_SECONDS = 2.0
"""Between two lines of one person, on average: 200 people make 100 lines a second."""

MOVES = 0.1
"""Part of what people do that is not a line, but going to another room."""

RETURN_SECONDS = 0.5
"""A page comes back after about so long; the chat's own page does likewise."""

SETTLE_SECONDS = 20.0
"""For the last lines to arrive, in the end, on a busy machine."""

BEFORE_DEATH, AFTER_REPLACED = 1.0, 3.0
"""Seconds around a death that excuse a missed line: from a little before it until all sockets have
another worker. How long that takes depends on the machine, as does the start of a new process; so
the end is counted from when the dead one has been replaced, two seconds or ten after its death."""


@dataclass
class Line:
    """What somebody said: `text` is different for each. Times are monotonic seconds."""

    text: str
    room: int
    sent: float
    heard_by_sender: float | None = None


@dataclass
class Stay:
    """One page in one room: from the moment it asked to be let in until it asked to leave, or was
    cut off. It must hear from `since` to `until`, and may from `asked` until `out`.
    """

    room: int
    asked: float
    since: float | None = None
    until: float | None = None
    out: float | None = None
    heard: Counter[str] = field(default_factory=Counter)


class Person:
    """One user with one page at a time, at any of the servers."""

    def __init__(self, name: str, cookie: str, servers: list[str], dice: random.Random) -> None:
        self.name, self.cookie, self.servers, self.dice = name, cookie, servers, dice
        self.rooms: set[int] = set()
        self.lines: dict[str, Line] = {}
        self.stays: list[Stay] = []
        self.here: dict[int, Stay] = {}
        self.strays: list[str] = []
        self.surprises: list[str] = []
        self.visits = 0
        self.cuts: list[float] = []  # when it was cut off, or not let in
        self.leaving = False

    async def live(self, silence: asyncio.Event) -> None:
        """Chat until `silence`, then only listen; ends when told to by `leave`."""
        while not self.leaving:
            url = self.dice.choice(self.servers)
            headers = {"Cookie": self.cookie}
            try:
                async with connect(
                    url.replace("http", "ws", 1) + "/chat/stream/",
                    origin=url, additional_headers=headers, compression=None, open_timeout=30,
                ) as socket:  # fmt: skip
                    self.visits += 1
                    self.socket = socket
                    if not self.leaving:  # told so while the page was on its way
                        await self._visit(socket, silence)
            except (OSError, WebSocketException, TimeoutError):
                pass
            if not self.leaving:
                self.cuts.append(time.monotonic())
                await asyncio.sleep(RETURN_SECONDS * self.dice.random())

    async def leave(self) -> None:
        """Close the page for good."""
        self.leaving = True
        await self.socket.close()

    async def _visit(self, socket: ClientConnection, silence: asyncio.Event) -> None:
        talking = asyncio.create_task(self._talk(socket, silence))
        try:
            async for text in socket:
                self._hear(json.loads(text), time.monotonic())
        finally:
            talking.cancel()
            self._cut_off()

    async def _talk(self, socket: ClientConnection, silence: asyncio.Event) -> None:
        try:
            for room in sorted(self.rooms):
                await self._ask(socket, "join", room)
            while True:
                await asyncio.sleep(self.dice.expovariate(1 / PAUSE_SECONDS))
                if silence.is_set():
                    return
                if self.dice.random() < MOVES:
                    await self._move(socket)
                elif settled := [
                    r for r, stay in self.here.items() if stay.since and not stay.until
                ]:
                    await self._say(socket, self.dice.choice(settled))
        except WebSocketException:
            pass  # whoever listens sees it, too

    async def _say(self, socket: ClientConnection, room: int) -> None:
        text = f"{self.name} {len(self.lines)}"
        self.lines[text] = Line(text, room, time.monotonic())
        await socket.send(json.dumps({"command": "send", "room": room, "message": text}))

    async def _move(self, socket: ClientConnection) -> None:
        room = self.dice.choice(sorted(self.rooms))
        if room not in self.here:
            await self._ask(socket, "join", room)
        elif self.here[room].since and not self.here[room].until:
            self.here[room].until = time.monotonic()
            await self._ask(socket, "leave", room)

    async def _ask(self, socket: ClientConnection, command: str, room: int) -> None:
        if command == "join":
            self.here[room] = Stay(room, time.monotonic())
            self.stays.append(self.here[room])
        await socket.send(json.dumps({"command": command, "room": room}))

    def _hear(self, frame: dict, now: float) -> None:
        if "join" in frame:
            stay = self.here.get(int(frame["join"]))
            if stay is not None and stay.since is None:
                stay.since = now
        elif "leave" in frame:
            stay = self.here.pop(int(frame["leave"]), None)
            if stay is not None:
                stay.until = stay.until or now
                stay.out = now
        elif frame.get("msg_type") == 0:
            self._hear_line(frame["message"], int(frame["room"]), now)
        elif "msg_type" not in frame:
            self.surprises.append(str(frame))

    def _hear_line(self, text: str, room: int, now: float) -> None:
        stay = self.here.get(room)
        if stay is None:
            self.strays.append(f"{self.name} in no room {room} heard {text!r}")
            return
        stay.heard[text] += 1
        mine = self.lines.get(text)
        if mine is not None and mine.heard_by_sender is None:
            mine.heard_by_sender = now

    def _cut_off(self) -> None:
        now = time.monotonic()
        for stay in self.here.values():
            stay.until = stay.until or now
            stay.out = now
        self.here.clear()


@dataclass
class Death:
    """Of a worker or a server: when it was killed, and when another one was there, monotonic."""

    server: bool
    killed: float
    replaced: float = math.inf

    def near(self, begin: float, end: float) -> bool:
        """Whether what was from `begin` to `end` may have suffered from it."""
        return self.killed <= end and begin <= self.replaced + AFTER_REPLACED


class Deaths(list[Death]):
    """Those of one run."""

    def excuse_cut(self, moment: float) -> bool:
        """Whether a page may have been cut off then, or not let in: a server died just before."""
        return any(death.server and death.near(moment, moment) for death in self)

    def excuse(self, line: Line) -> bool:
        """Whether somebody may have missed it."""
        end = line.heard_by_sender or line.sent
        return any(death.near(line.sent, end + BEFORE_DEATH) for death in self)


async def chat(people: list[Person], seconds: float, chaos: Callable[[], Awaitable[None]]) -> None:
    """All of them chat for `seconds` while `chaos` runs; then they are silent, then they leave."""
    silence = asyncio.Event()
    lives = [asyncio.create_task(person.live(silence)) for person in people]
    havoc = asyncio.create_task(chaos())
    await asyncio.sleep(seconds)
    havoc.cancel()
    await asyncio.gather(havoc, return_exceptions=True)
    silence.set()
    await asyncio.sleep(PAUSE_SECONDS)
    deadline = time.monotonic() + SETTLE_SECONDS
    while missing(people) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    await asyncio.gather(*(person.leave() for person in people))
    await asyncio.gather(*lives)


def moment(seconds: float) -> str:
    """A monotonic time, as the reports have it."""
    return f"{seconds % 1000:.1f}"


def missing(people: list[Person], deaths: Deaths | None = None) -> list[str]:
    """Who has not heard which accepted line."""
    by_room: dict[int, list[tuple[Person, Stay]]] = defaultdict(list)
    for person in people:
        for stay in person.stays:
            by_room[stay.room].append((person, stay))
    found = []
    for line in accepted(people):
        if deaths is not None and deaths.excuse(line):
            continue
        for person, stay in by_room[line.room]:
            if _was_there(stay, line) and not stay.heard[line.text]:
                found.append(f"{person.name} has not heard {line.text!r} of {moment(line.sent)}")
    return found


def accepted(people: list[Person]) -> Iterator[Line]:
    """The lines whose senders have heard them."""
    for person in people:
        yield from (line for line in person.lines.values() if line.heard_by_sender)


def _was_there(stay: Stay, line: Line) -> bool:
    """Whether `stay` lasted from before the line was said until after its sender had heard it."""
    assert line.heard_by_sender is not None
    if stay.since is None or stay.since > line.sent:
        return False
    # Who leaves just then may have left before its own line came to it.
    return stay.until is None or stay.until > line.heard_by_sender + PAUSE_SECONDS


def accounts(people: list[Person], deaths: Deaths) -> list[str]:
    """What is wrong in the ledger; nothing, it is hoped."""
    wrong = missing(people, deaths)
    rooms = {line.text: line.room for person in people for line in person.lines.values()}
    for person in people:
        wrong += person.strays + person.surprises
        for cut in person.cuts:
            if not deaths.excuse_cut(cut):
                wrong.append(f"{person.name} was cut off at {moment(cut)}, and no server had died")
        for stay in person.stays:
            for text, times in stay.heard.items():
                if times > 1:
                    wrong.append(f"{person.name} heard {text!r} {times} times")
                if rooms.get(text) != stay.room:
                    wrong.append(f"{person.name} heard {text!r} in room {stay.room}")
    return wrong
