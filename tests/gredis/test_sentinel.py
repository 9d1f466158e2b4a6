"""The query to a sentinel, and its answer."""

import pytest

from gredis.sentinel import decode_answer, encode_query


def test_the_query_names_the_group():
    assert encode_query("ours").endswith(b"GET-MASTER-ADDR-BY-NAME\r\n$4\r\nours\r\n")


def test_an_answer_has_host_and_port():
    assert decode_answer(b"*2\r\n$4\r\nhost\r\n$4\r\n6379\r\n", "ours") == ("host", 6379)


@pytest.mark.parametrize("answer", [b"*-1\r\n", b"*1\r\n$1\r\na\r\n", b"", b"-ERR no\r\n"])
def test_any_other_answer_is_an_error(answer):
    with pytest.raises(ConnectionError, match="about 'ours'"):
        decode_answer(answer, "ours")
