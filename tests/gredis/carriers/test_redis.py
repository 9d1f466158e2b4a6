"""The Redis carrier: commands and bytes, without a Redis."""

import pytest

from gredis.carriers.base import ERROR, MESSAGE, REPLY
from gredis.carriers.redis import RedisCarrier, scripts
from gredis.errors import GredisError


def test_the_handshake_subscribes_after_everything_else():
    carrier = RedisCarrier("me", "p", "ann", "sesame", 3, "name")
    hello, select, *loads, subscribe = carrier.handshake()
    assert hello == ("HELLO", 3, "AUTH", "ann", "sesame", "SETNAME", "name")
    assert select == ("SELECT", 3)
    assert {load[:2] for load in loads} == {("SCRIPT", "LOAD")}
    assert subscribe == ("SUBSCRIBE", "p:here:me")
    assert carrier.count_replies(carrier.handshake()) == len(loads) + 2


def test_a_password_alone_is_that_of_the_default_user():
    assert RedisCarrier("me", password="x").handshake()[0] == ("HELLO", 3, "AUTH", "default", "x")


def test_every_script_starts_with_a_comment_of_its_name_and_replies():
    for name, script in scripts().items():
        own = script.text.split("return reply\nend\n", 1)[1]
        assert own.startswith(f"-- {name}: ")
        assert "reply " in own.split("\nlocal")[0]


def test_a_call_names_its_script_by_digest():
    command = RedisCarrier("me", "p").call("join", 7, "room")
    assert command == ("EVALSHA", scripts()["join"].digest, 0, "p", "me", 7, "room")
    assert len(scripts()["join"].digest) == 40


WIRE = (
    b"+OK\r\n"
    b"-ERR broken\r\n"
    b">3\r\n$9\r\nsubscribe\r\n$6\r\np:here\r\n:1\r\n"
    b">3\r\n$7\r\nmessage\r\n$6\r\np:here\r\n$13\r\n7 1700 u1\0x y\r\n"
)


def test_replies_errors_and_messages_are_told_apart_wherever_the_bytes_are_cut():
    expected = [(REPLY, b"OK"), (ERROR, "ERR broken"), (MESSAGE, (7, 1700, b"u1\0x y"))]
    for cut in range(len(WIRE)):
        decoder = RedisCarrier("me").decoder()
        assert [*decoder.feed(WIRE[:cut]), *decoder.feed(WIRE[cut:])] == expected


def test_other_protocols_are_refused():
    with pytest.raises(GredisError, match="not the Redis protocol"):
        list(RedisCarrier("me").decoder().feed(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
