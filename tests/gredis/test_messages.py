import pytest
from hypothesis import given
from hypothesis import strategies as st

from gredis import messages
from gredis.errors import GredisError, MessageTooLarge
from gredis.messages import Kind, Message, pack, unpack

names = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))
bodies = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",)))
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
)


@given(st.sampled_from(Kind), names, st.binary())
def test_a_message_survives_the_wire(kind, name, body):
    message = Message(kind, name, body)
    assert Message.decode(message.encode()) == message


@given(bodies)
def test_what_channels_allows_in_a_message_comes_back_as_it_was(body):
    assert unpack(pack(body)) == body


def test_a_message_above_the_limit_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setattr(messages, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(MessageTooLarge, match="message of 103 bytes exceeds the limit of 100"):
        Message(Kind.UNICAST, "x", b"b" * 100).encode()


@pytest.mark.parametrize("wire", [b"", b"u", b"unothing", b"?name\0body", b"u\xff\0"])
def test_bytes_that_are_not_a_message_are_refused(wire):
    with pytest.raises(GredisError):
        Message.decode(wire)
