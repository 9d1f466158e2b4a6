"""The messages between page and server, as JSON text frames; no I/O, no database.

    from the browser                                    to the sender                to the room
    {"command": "join", "room": id}                     {"join": "id", "title": …}   type 4
    {"command": "leave", "room": id}                    {"leave": "id"}              type 5
    {"command": "send", "room": id, "message": text}                                 type 0
    an invalid frame                                    {"error": code}

    to the room: {"msg_type": type, "room": "id", "username": …} and, for type 0, "message".

- A room's id is accepted as a number or as a string of digits, and always sent as a string.
- A message goes to all members of the room, its sender included; a notice (4, 5) to the others.
- A repeated join is answered again, for a page that has lost its state; the room gets no notice.
  Leaving a room that was not joined is answered, too: the result is the same.
- A user who loses access to a room while connected gets the error and then {"leave": "id"}.

The codes are in `errors.py`, the permissions in `access.py`.

Taught in notebooks/11_multichat.ipynb.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from . import conf
from .errors import ClientError, Code

# The largest PostgreSQL bigint, the type of a room's id; larger numbers raise an error there.
ROOM_ID_MAX = 2**63 - 1
# ASCII digits only (str.isdigit accepts many more), and one spelling per room: "1", never "01".
ROOM_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True)
class Join:
    """Join a room."""

    room: int


@dataclass(frozen=True)
class Leave:
    """Leave a room."""

    room: int


@dataclass(frozen=True)
class Say:
    """Send a message to a room."""

    room: int
    message: str


Command = Join | Leave | Say


def parse(text: str | None) -> Command:
    """Return the command in a frame; `text` is None for a binary frame. Raises ClientError."""
    frame = _parse_object(text)
    match frame.get("command"):
        case "join":
            return Join(parse_room_id(frame.get("room")))
        case "leave":
            return Leave(parse_room_id(frame.get("room")))
        case "send":
            return Say(parse_room_id(frame.get("room")), parse_message(frame.get("message")))
    raise ClientError(Code.COMMAND_UNKNOWN)


def _parse_object(text: str | None) -> dict[str, Any]:
    if text is None:
        raise ClientError(Code.FRAME_NOT_TEXT)
    if len(text) > conf.CHAT_FRAME_MAX:
        raise ClientError(Code.FRAME_TOO_LONG)
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: thousands of "["
        raise ClientError(Code.FRAME_NOT_JSON) from None
    if not isinstance(frame, dict):
        raise ClientError(Code.FRAME_NOT_OBJECT)
    return frame


def parse_room_id(value: object) -> int:
    """Return a room's id, from 1 to ROOM_ID_MAX, given as number or digits. Raises ClientError."""
    if isinstance(value, str) and ROOM_ID.fullmatch(value):
        value = int(value)
    # type(), because True is an int to isinstance and would be room 1.
    if type(value) is not int or not 1 <= value <= ROOM_ID_MAX:
        raise ClientError(Code.ROOM_INVALID)
    return value


def parse_message(value: object) -> str:
    """Return a message of 1 to CHAT_MESSAGE_MAX characters. Raises ClientError."""
    if not isinstance(value, str):
        raise ClientError(Code.MESSAGE_NOT_TEXT)
    if len(value) > conf.CHAT_MESSAGE_MAX:
        raise ClientError(Code.MESSAGE_TOO_LONG)
    if not value.strip():
        raise ClientError(Code.MESSAGE_EMPTY)
    return value


def joined(room_id: int, title: str) -> dict[str, Any]:
    """Return the answer to a join."""
    return {"join": str(room_id), "title": title}


def left(room_id: int) -> dict[str, Any]:
    """Return the answer to a leave, or the notice that a room was lost."""
    return {"leave": str(room_id)}


def refused(code: Code) -> dict[str, Any]:
    """Return the answer to a frame with an error."""
    return {"error": str(code)}


def line(msg_type: int, room_id: int, username: str, message: str | None = None) -> dict[str, Any]:
    """Return a frame to a room: a user has entered (4), left (5) or sent `message` (0)."""
    frame = {"msg_type": msg_type, "room": str(room_id), "username": username}
    return frame if message is None else frame | {"message": message}
