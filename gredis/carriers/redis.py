"""The Redis carrier: the crossbar's verbs as Redis commands. No I/O here.

Every key that we use (`P` is the prefix, "gredis" unless configured):

    key              type    what                                               goes when
    P:inbox:INBOX    stream  letters for one process, in field m                it departs; 60 s
                                                                                after its death
    P:entries:INBOX  set     "group:G", "queue:Q": where it is entered          with its inbox
    P:sent:INBOX     string  number of its last call that was carried out       with its inbox
    P:known          set     inboxes of all processes                           empty
    P:group:G        set     inboxes of processes with members of G             empty
    P:queue:Q        zset    inboxes that take from Q; score: minus their room  empty
    P:waiting:Q      list    letters for which nobody has room                  empty

and one pub/sub channel, `P:here:INBOX`: nothing is ever published there, but a process is alive as
long as it is subscribed.

All changes are made by the scripts in `scripts/`, each one atomic and one command. An inbox is a
stream, read from the last id seen: a connection that is cut in the middle repeats nothing and loses
nothing. One blocking read of one key serves a process, whatever it has of sockets, channels and
groups.

Works with Redis 6.2 to 8 and Valkey. Read next: `drivers/gevent.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

from gredis.crossbar import Announcement
from gredis.messages import pack

Command: TypeAlias = tuple[Any, ...]

READ_BATCH = 512
"""Letters per read: enough to empty a burst quickly, few enough to let others run in between."""

TRIM_AFTER = 256
"""Letters read before they are trimmed from the stream: one command for so many letters."""


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
    """Says in Redis commands what one process wants.

    `capacity`: letters an inbox holds at most; `waiting`: letters a queue holds at most.
    """

    inbox: str
    prefix: str = "gredis"
    capacity: int = 10_000
    waiting: int = 1_000

    def handshake(self) -> Iterator[Command]:
        """What to send first on the connection for commands; each is answered once.

        The subscription comes before the announcement: who is announced must be there.
        """
        yield ("SUBSCRIBE", self.here)
        for script in scripts().values():
            yield ("SCRIPT", "LOAD", script.text)

    @property
    def here(self) -> str:
        """The channel whose subscription says that this process lives."""
        return f"{self.prefix}:here:{self.inbox}"

    @property
    def stream(self) -> str:
        """The key of this process's inbox."""
        return f"{self.prefix}:inbox:{self.inbox}"

    def call(self, script: str, number: int, *arguments: Any) -> Command:
        """The command that runs a script as this process's call of that number (0: uncounted)."""
        return (
            "EVALSHA", scripts()[script].digest, 0, self.prefix, self.inbox, number, *arguments
        )  # fmt: skip

    def announce(self, announcement: Announcement) -> Command:
        """Everything this process wants, after connecting."""
        wanted = {"groups": announcement.groups, "queues": announcement.queues}
        return self.call("announce", 0, pack(wanted))

    def unicast(self, inbox: str, wire: bytes) -> tuple[Any, ...]:
        """Script and arguments that send a letter to one process."""
        return ("unicast", inbox, wire, self.capacity)

    def multicast(self, group: str, wire: bytes) -> tuple[Any, ...]:
        """Script and arguments that send a letter to every process with members."""
        return ("multicast", group, wire, self.capacity)

    def anycast(self, queue: str, wire: bytes, waiting: int | None = None) -> tuple[Any, ...]:
        """Script and arguments that send a letter to one taker of a queue."""
        limit = self.waiting if waiting is None else waiting
        return ("anycast", queue, wire, self.capacity, limit)

    def take(self, queue: str, gained: int) -> tuple[Any, ...]:
        """Script and arguments that say: room for `gained` more letters of a queue."""
        return ("take", queue, gained, self.capacity)

    def read(self, last: bytes) -> Command:
        """The blocking read of the inbox, from the last id seen, for as long as it takes."""
        return ("XREAD", "COUNT", READ_BATCH, "BLOCK", 0, "STREAMS", self.stream, last)

    def trim(self, last: bytes) -> Command:
        """Free what lies before the last id seen."""
        return ("XTRIM", self.stream, "MINID", last)


def entries(reply: Any) -> list[tuple[bytes, bytes]]:
    """The (id, letter) pairs of a read's reply, in RESP3 (a map) or RESP2 (a list)."""
    if not reply:
        return []
    streams = reply.items() if isinstance(reply, dict) else reply
    return [(number, fields[1]) for _, found in streams for number, fields in found]
