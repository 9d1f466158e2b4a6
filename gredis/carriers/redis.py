"""The Redis carrier: the crossbar's verbs as Redis commands, and back. No I/O here.

Every key that we use (`P` is the prefix, "gredis" unless configured):

    key              type    what                                               goes when
    P:inbox:INBOX    stream  messages for one process, in field m; ids are       it departs; 60 s
                             NUMBER-MILLISECONDS, numbered without gaps         after its death
    P:state:INBOX    hash    seq: number of its last message; dropped: messages   with its inbox
                             that found it full; call: number of its last
                             call that was carried out; announced: number of
                             the announcement that told of the last loss,
                             0: taken for dead, to be told; absent: since when,
                             in milliseconds, it has not been seen
    P:entries:INBOX  set     "group:G", "queue:Q": where it is entered          with its inbox
    P:known          set     inboxes of all processes                           empty
    P:group:G        set     inboxes of processes with members of G             empty
    P:queue:Q        zset    inboxes that take from Q; score: minus their room  empty
    P:waiting:Q      list    "MILLISECONDS MESSAGE" for which nobody has room    empty; expiry

and one pub/sub channel, `P:here:INBOX`. A process is alive as long as it is subscribed to its own,
and each message is pushed there the moment it is stored: nobody reads, nobody polls, a message
costs one command in all. The stream is what makes pushes safe: after a cut connection a process
fetches what it has missed, and the numbers tell what it has seen already.

Who is killed cannot tidy up: others do, as soon as they send to it or learn that it has gone, or
when they announce themselves. So what the last process leaves that is killed (none of it grows)
stays until the next one comes.

All changes are made by the scripts in `scripts/`, each one atomic and one command.
Works with Redis 6.2 to 8 and Valkey. Taught in notebooks/08_gredis_on_redis.ipynb.
Read next: `session.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import hiredis

from gredis.carriers.base import ERROR, MESSAGE, REPLY, Command, Incoming
from gredis.errors import GredisError


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest by which Redis knows it once it is loaded."""

    text: str
    digest: str


@cache
def scripts() -> dict[str, Script]:
    """The scripts by name, each with `common.lua` in front."""
    folder = files("gredis.carriers").joinpath("scripts")
    common = folder.joinpath("common.lua").read_text()
    found = {}
    for file in folder.iterdir():
        name, _, ending = file.name.partition(".")
        if ending == "lua" and name != "common":
            text = common + file.read_text()
            digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            found[name] = Script(text, digest)
    return found


@dataclass(frozen=True, slots=True)
class RedisCarrier:
    """Says in Redis commands what one process wants."""

    inbox: str
    prefix: str = "gredis"
    username: str | None = None
    password: str | None = None
    database: int = 0
    client_name: str | None = None

    def handshake(self) -> list[Command]:
        """What to send first; each but SUBSCRIBE, whose answer is a push, is answered once.

        The subscription comes before the announcement: who is announced must be there.
        """
        hello: Command = ("HELLO", 3)
        if self.password is not None:
            hello += ("AUTH", self.username or "default", self.password)
        if self.client_name is not None:
            hello += ("SETNAME", self.client_name)
        commands: list[Command] = [hello]
        if self.database:
            commands.append(("SELECT", self.database))
        loads = [("SCRIPT", "LOAD", script.text) for script in scripts().values()]
        return [*commands, *loads, ("SUBSCRIBE", self.here)]

    def count_replies(self, commands: list[Command]) -> int:
        """How many answers these commands of the handshake have."""
        return sum(command[0] != "SUBSCRIBE" for command in commands)

    @property
    def here(self) -> str:
        """The channel whose subscription says that this process lives."""
        return f"{self.prefix}:here:{self.inbox}"

    def call(self, script: str, number: int, *arguments: Any) -> Command:
        """The command that runs a script as this process's call of that number (0: uncounted)."""
        return (
            "EVALSHA", scripts()[script].digest, 0, self.prefix, self.inbox, number, *arguments
        )  # fmt: skip

    def encode(self, commands: list[Command]) -> bytes:
        """Commands as they go over the wire."""
        return b"".join(map(hiredis.pack_command, commands))

    def decoder(self) -> Decoder:
        """What makes sense of the bytes of one connection."""
        return Decoder()


class Decoder:
    """The bytes of one connection (RESP3), taken apart."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()

    def feed(self, received: bytes) -> Iterator[Incoming]:
        """What is complete with these bytes."""
        self._reader.feed(received)
        while (found := self._next()) is not False:
            if isinstance(found, hiredis.PushNotification):
                if found[0] == b"message":
                    number, sent, wire = found[2].split(b" ", 2)
                    yield MESSAGE, (int(number), int(sent), wire)
            elif isinstance(found, hiredis.ReplyError):
                yield ERROR, str(found)
            else:
                yield REPLY, found

    def _next(self) -> Any:
        try:
            return self._reader.gets()
        except hiredis.ProtocolError as error:
            raise GredisError(f"this is not Redis, or it is broken: {error}") from error
