import pytest

from gredis.errors import BadName
from gredis.names import Address, new_inbox, new_local


def test_an_address_is_written_inbox_bang_local():
    assert str(Address("abc", "7")) == "abc!7"
    assert Address.parse("abc!7") == Address("abc", "7")


def test_channels_prefix_is_not_part_of_the_address():
    assert Address.parse("specific.abc!7") == Address("abc", "7")
    assert Address.parse("a.b.abc!7") == Address("abc", "7")


@pytest.mark.parametrize("text", ["", "abc", "abc!", "!7", "!", "prefix.!7"])
def test_an_invalid_address_is_refused(text):
    with pytest.raises(BadName, match="expected an address"):
        Address.parse(text)


def test_names_are_never_made_twice():
    assert len({new_inbox() for _ in range(1000)}) == 1000
    assert len({new_local() for _ in range(1000)}) == 1000
