"""Frames in, commands out: chat/protocol.py without socket or database."""

import json

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from chat import protocol
from chat.errors import ClientError, Code
from chat.protocol import Join, Leave, Say, parse, parse_message, parse_room_id

# No deadline: a machine that is busy is not an error.
ANY = bounds(deadline=None, max_examples=50)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def code_of(parse, value):
    with pytest.raises(ClientError) as caught:
        parse(value)
    assert caught.value.lost == ()
    return caught.value.code


def outcome(frame):
    try:
        return parse(json.dumps(frame))
    except ClientError as error:
        return error.code


def test_the_three_commands():
    assert parse('{"command": "join", "room": 1}') == Join(1)
    assert parse('{"command": "leave", "room": "2"}') == Leave(2)
    assert parse('{"command": "send", "room": "3", "message": "hi"}') == Say(3, "hi")


def test_what_is_not_known_in_a_command_is_ignored():
    assert parse('{"command": "join", "room": 1, "colour": "red"}') == Join(1)


@pytest.mark.parametrize("value", [1, "1", 2**63 - 1, str(2**63 - 1)])
def test_a_room_id_is_a_number_or_its_digits(value):
    assert parse_room_id(value) == int(value)


@pytest.mark.parametrize(
    "value",
    [
        *[None, True, False, 0, -1, 1.0, 2**63, 10**400, [], {}],
        *["", "0", "01", "-1", "+1", " 1", "1 ", "1\n", "1.0", "1_0", "0x1", "١", "²", str(2**63)],
    ],
)
def test_anything_else_is_no_room_id(value):
    assert code_of(parse_room_id, value) == Code.ROOM_INVALID


def test_a_message_is_text_within_bounds(settings):
    settings.CHAT_MESSAGE_MAX = 3
    assert parse_message("abc") == "abc"
    assert code_of(parse_message, "abcd") == Code.MESSAGE_TOO_LONG
    assert code_of(parse_message, "   ") == Code.MESSAGE_EMPTY
    assert code_of(parse_message, 3) == Code.MESSAGE_NOT_TEXT


def test_a_frame_that_is_too_long_is_not_even_parsed(settings):
    settings.CHAT_FRAME_MAX = 10
    assert code_of(parse, "x" * 11) == Code.FRAME_TOO_LONG
    assert code_of(parse, "x" * 10) == Code.FRAME_NOT_JSON


def test_the_longest_message_fits_into_a_frame_however_it_is_escaped():
    text = json.dumps({"command": "send", "room": str(2**63 - 1), "message": "🙂" * 2000})
    assert parse(text) == Say(2**63 - 1, "🙂" * 2000)


@ANY
@given(st.text())
def test_any_text_is_a_command_or_an_error(text):
    assert isinstance(code_of(parse, text), Code)


@ANY
@given(st.dictionaries(st.sampled_from(["command", "room", "message", "x"]), JSON))
def test_any_object_is_a_command_or_an_error(frame):
    assert isinstance(outcome(frame), Join | Leave | Say | Code)


@ANY
@given(st.sampled_from(["join", "leave", "send"]), JSON, JSON)
def test_any_values_of_a_command_are_accepted_or_an_error(command, room, message):
    parsed = outcome({"command": command, "room": room, "message": message})
    if isinstance(parsed, Code):
        assert parsed.startswith(("ROOM_", "MESSAGE_", "FRAME_"))
    else:
        assert 1 <= parsed.room <= protocol.ROOM_ID_MAX


def test_answers_and_lines():
    assert protocol.joined(1, "Lobby") == {"join": "1", "title": "Lobby"}
    assert protocol.left(1) == {"leave": "1"}
    assert protocol.refused(Code.TOO_FAST) == {"error": "TOO_FAST"}
    assert protocol.line(4, 1, "ann") == {"msg_type": 4, "room": "1", "username": "ann"}
    assert protocol.line(0, 1, "ann", "")["message"] == ""
