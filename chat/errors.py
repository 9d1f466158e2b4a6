"""What can be wrong with a frame, and the code that says so to its sender.

    ClientError     the sender is told its code; the socket stays open

The first three codes are the original's, the others ours.
"""

from collections.abc import Collection
from enum import StrEnum


class Code(StrEnum):
    USER_HAS_TO_LOGIN = "USER_HAS_TO_LOGIN"  # logged out, expired or deactivated since
    ROOM_INVALID = "ROOM_INVALID"  # not an id, or no such room
    ROOM_ACCESS_DENIED = "ROOM_ACCESS_DENIED"  # staff only, or a line to a room not joined

    FRAME_NOT_TEXT = "FRAME_NOT_TEXT"  # a binary frame
    FRAME_TOO_LONG = "FRAME_TOO_LONG"  # above CHAT_FRAME_MAX characters
    FRAME_NOT_JSON = "FRAME_NOT_JSON"
    FRAME_NOT_OBJECT = "FRAME_NOT_OBJECT"  # JSON, but not {...}
    COMMAND_UNKNOWN = "COMMAND_UNKNOWN"  # none, or not join, leave or send
    MESSAGE_NOT_TEXT = "MESSAGE_NOT_TEXT"  # none, or not a string
    MESSAGE_EMPTY = "MESSAGE_EMPTY"  # nothing but white space
    MESSAGE_TOO_LONG = "MESSAGE_TOO_LONG"  # above CHAT_MESSAGE_MAX characters
    TOO_FAST = "TOO_FAST"  # above CHAT_RATE; the frame was ignored, wait a moment
    TRY_AGAIN = "TRY_AGAIN"  # the database did not answer; nothing was done


class ClientError(Exception):
    """The browser asked for something that it does not get.

    `code` goes to the browser. `lost` holds the ids of rooms that the sender was in and, as it
    turned out, may not be in any more.
    """

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code
        self.lost: Collection[int] = ()
