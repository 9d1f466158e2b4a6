"""The error of a command, and the codes that are sent to the browser.

    ClientError     its code is sent to the browser; the socket stays open

The first three codes are those of the original multichat, the others are ours.
"""

from collections.abc import Collection
from enum import StrEnum


class Code(StrEnum):
    """The reason why a command was not executed."""

    USER_HAS_TO_LOGIN = "USER_HAS_TO_LOGIN"  # logged out, expired or deactivated since
    ROOM_INVALID = "ROOM_INVALID"  # not an id, or no such room
    ROOM_ACCESS_DENIED = "ROOM_ACCESS_DENIED"  # staff only, or a message to a room not joined

    FRAME_NOT_TEXT = "FRAME_NOT_TEXT"  # a binary frame
    FRAME_TOO_LONG = "FRAME_TOO_LONG"  # above CHAT_FRAME_MAX characters
    FRAME_NOT_JSON = "FRAME_NOT_JSON"
    FRAME_NOT_OBJECT = "FRAME_NOT_OBJECT"  # JSON, but not {...}
    COMMAND_UNKNOWN = "COMMAND_UNKNOWN"  # missing, or not join, leave or send
    MESSAGE_NOT_TEXT = "MESSAGE_NOT_TEXT"  # missing, or not a string
    MESSAGE_EMPTY = "MESSAGE_EMPTY"  # only white space
    MESSAGE_TOO_LONG = "MESSAGE_TOO_LONG"  # above CHAT_MESSAGE_MAX characters
    TOO_FAST = "TOO_FAST"  # above CHAT_RATE; the frame was ignored
    TRY_AGAIN = "TRY_AGAIN"  # the database failed; nothing was done


class ClientError(Exception):
    """A command of the browser is refused.

    `code` is sent to the browser. `lost` holds the ids of rooms that the sender had joined and may
    not be in any more.
    """

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code
        self.lost: Collection[int] = ()
