"""What the page and the server say to each other, in JSON text frames; no I/O, no database.

    from the browser                                    to the sender                to the room
    {"command": "join", "room": id}                     {"join": "id", "title": …}   type 4
    {"command": "leave", "room": id}                    {"leave": "id"}              type 5
    {"command": "send", "room": id, "message": text}                                 type 0
    anything wrong                                      {"error": code}

    to the room: {"msg_type": type, "room": "id", "username": …} and, of type 0, "message".

- A room's id may come as a number or as its digits; it always goes out as a string.
- A line goes to all in the room, its sender included; a notice (4, 5) to the others only.
- A second join is answered again, so that a page which lost its memory can ask; the room hears
  nothing. Leaving a room one is not in is answered too: afterwards one is out of it, either way.
- Who loses a room while connected gets the error and then that room's {"leave": "id"}.

The codes are in `errors.py`; who may be in which room is decided in `access.py`.
Taught in notebooks/11_multichat.ipynb.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from . import conf
from .errors import ClientError, Code

# PostgreSQL's bigint, the type of a room's id; it raises on anything larger.
ROOM_ID_MAX = 2**63 - 1
# ASCII digits only (str.isdigit knows many more) and one spelling a room: "1", never "01".
ROOM_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True)
class Join:
    room: int


@dataclass(frozen=True)
class Leave:
    room: int


@dataclass(frozen=True)
class Say:
    room: int
    message: str


Command = Join | Leave | Say


def parse(text: str | None) -> Command:
    """The command in one frame; `text` is None for a binary frame. Raises ClientError."""
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
    """A room's id, from 1 to ROOM_ID_MAX, out of a number or its digits. Raises ClientError."""
    if isinstance(value, str) and ROOM_ID.fullmatch(value):
        value = int(value)
    # type(), because True is an int to isinstance and would be room 1.
    if type(value) is not int or not 1 <= value <= ROOM_ID_MAX:
        raise ClientError(Code.ROOM_INVALID)
    return value


def parse_message(value: object) -> str:
    """A line of chat, of 1 to CHAT_MESSAGE_MAX characters. Raises ClientError."""
    if not isinstance(value, str):
        raise ClientError(Code.MESSAGE_NOT_TEXT)
    if len(value) > conf.CHAT_MESSAGE_MAX:
        raise ClientError(Code.MESSAGE_TOO_LONG)
    if not value.strip():
        raise ClientError(Code.MESSAGE_EMPTY)
    return value


def joined(room_id: int, title: str) -> dict[str, Any]:
    return {"join": str(room_id), "title": title}


def left(room_id: int) -> dict[str, Any]:
    return {"leave": str(room_id)}


def refused(code: Code) -> dict[str, Any]:
    return {"error": str(code)}


def line(msg_type: int, room_id: int, username: str, message: str | None = None) -> dict[str, Any]:
    """What a room hears: somebody came (4), went (5) or said `message` (0)."""
    frame = {"msg_type": msg_type, "room": str(room_id), "username": username}
    return frame if message is None else frame | {"message": message}
