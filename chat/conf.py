"""The chat's settings and their defaults; a setting of the same name in the project wins.

Looked up when used (`conf.CHAT_RATE`), so that a test or a project may override one at any time.
The message types and the notice switch are those of the original multichat.
"""

from typing import Any

from django.conf import settings

DEFAULTS: dict[str, Any] = {
    # Tell a room when somebody enters or leaves it.
    "NOTIFY_USERS_ON_ENTER_OR_LEAVE_ROOMS": True,
    "MSG_TYPE_MESSAGE": 0,  # what a user said
    "MSG_TYPE_WARNING": 1,  # yellow
    "MSG_TYPE_ALERT": 2,  # red
    "MSG_TYPE_MUTED": 3,  # need not be noticed
    "MSG_TYPE_ENTER": 4,
    "MSG_TYPE_LEAVE": 5,
    "MESSAGE_TYPES_CHOICES": (
        (0, "MESSAGE"),
        (1, "WARNING"),
        (2, "ALERT"),
        (3, "MUTED"),
        (4, "ENTER"),
        (5, "LEAVE"),
    ),
    # The types that the page shows.
    "MESSAGE_TYPES_LIST": [0, 1, 2, 3, 4, 5],
    # Characters of one line of chat; Discord and Slack draw the line at 2,000 and 4,000.
    "CHAT_MESSAGE_MAX": 2000,
    # Characters of one frame: a longest message with every character escaped (12 each, as a
    # surrogate pair), and room for the rest. Longer frames are not even parsed.
    "CHAT_FRAME_MAX": 25_000,
    # Frames a second that one socket may go on sending, and how many at once after a pause.
    # Nobody types faster; the burst lets a page that reconnects rejoin its rooms.
    "CHAT_RATE": 5.0,
    "CHAT_BURST": 20,
    # Seconds for which a listener's right to a staff-only room is taken for granted. Commands
    # are checked every time; this bounds what a person can still *hear* after a change that the
    # admin did not announce (SQL, a script, a logout elsewhere).
    "CHAT_ACCESS_SECONDS": 10.0,
}


def __getattr__(name: str) -> Any:
    if name in DEFAULTS:
        return getattr(settings, name, DEFAULTS[name])
    raise AttributeError(f"the chat has no setting {name!r}; it has {', '.join(DEFAULTS)}")
