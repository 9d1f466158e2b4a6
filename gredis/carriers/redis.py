"""The Redis carrier: the crossbar's verbs as Redis commands, and back. No I/O here.

All keys in use (`P` is the prefix, "gredis" unless configured):

    key              type    content                                            removed
    P:inbox:INBOX    stream  messages for one process, in field m; ids are      when it deregisters;
                             NUMBER-MILLISECONDS, numbered without gaps         60 s after its death
    P:state:INBOX    hash    seq: number of its last message; dropped: messages with its inbox
                             that found it full; call: number of its last call
                             that was carried out; announced: number of the
                             registration that reported the last loss, 0 after
                             an eviction not yet reported; absent: since when it
                             has not been connected, in milliseconds
    P:entries:INBOX  set     "group:G", "queue:Q": where it is registered       with its inbox
    P:known          set     inboxes of all processes                           when empty
    P:group:G        set     inboxes of processes with members of G             when empty
    P:queue:Q        zset    inboxes that consume from Q; score: minus room     when empty
    P:waiting:Q      list    "MILLISECONDS MESSAGE" that no consumer has room   when empty; expiry
                             for

and one pub/sub channel per process, `P:here:INBOX`. A process is alive as long as it is subscribed
to its own channel, because Redis ends the subscription when the TCP connection dies.

A message is stored in the stream and published on that channel in the same script, inline. So the
receiver neither polls nor reads: the push *is* the message, and a message costs one command in all.
Pub/sub alone would lose messages when a connection is cut. The stream makes up for that: after
reconnecting, a process fetches everything after the last number it has seen, and ignores pushed
copies until it has caught up. The stream is trimmed in batches, long after delivery, so trimming
costs almost nothing per message.

A killed process cannot clean up. Other processes do that when they send to it, when they notice
that its lifeline has ended, or when they register. If the last process of all is killed, its keys
stay until the next one starts; they do not grow.

All changes are made by the scripts in `scripts/`, each one atomic and one command. Scripts are
addressed by the digest of their text, so processes of two releases can share a Redis as long as the
keys above keep their meaning.

Works with Redis 6.2 to 8 and Valkey. Taught in notebooks/08_gredis_on_redis.ipynb.
Read next: `scripts/common.lua`, then `session.py`.
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
    """A Lua script, and the digest by which Redis knows it once it is loaded."""

    text: str
    digest: str


@cache
def scripts() -> dict[str, Script]:
    """Return all scripts by name, each with `common.lua` in front."""
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
    """Encodes the calls of one process as Redis commands."""

    inbox: str
    prefix: str = "gredis"
    username: str | None = None
    password: str | None = None
    database: int = 0
    client_name: str | None = None

    def handshake(self) -> list[Command]:
        """Return the commands to send first.

        The subscription comes before the registration: a process must be present when others learn
        of it.
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
        """Return the number of replies; SUBSCRIBE has none, because it is answered by a push."""
        return sum(command[0] != "SUBSCRIBE" for command in commands)

    @property
    def here(self) -> str:
        """The channel whose subscription proves that this process is alive."""
        return f"{self.prefix}:here:{self.inbox}"

    def call(self, script: str, number: int, *arguments: Any) -> Command:
        """Return the command that runs a script as this process's call `number` (0: uncounted)."""
        return (
            "EVALSHA", scripts()[script].digest, 0, self.prefix, self.inbox, number, *arguments
        )  # fmt: skip

    def encode(self, commands: list[Command]) -> bytes:
        """Return commands in the Redis protocol."""
        return b"".join(map(hiredis.pack_command, commands))

    def decoder(self) -> Decoder:
        """Return a decoder for one new connection."""
        return Decoder()


class Decoder:
    """Decodes the bytes of one connection (RESP3)."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()

    def feed(self, received: bytes) -> Iterator[Incoming]:
        """Yield everything that these bytes complete."""
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
            raise GredisError(f"not the Redis protocol: {error}") from error
