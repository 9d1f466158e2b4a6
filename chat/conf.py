"""The chat's settings and their defaults, which settings of the same name in the project override.

They are looked up on use (`conf.CHAT_RATE`), so a test or a project can override them at any time.
The message types and the notice switch are those of the original multichat.
"""

from typing import Any

from django.conf import settings

DEFAULTS: dict[str, Any] = {
    # Notify a room when a user enters or leaves it.
    "NOTIFY_USERS_ON_ENTER_OR_LEAVE_ROOMS": True,
    "MSG_TYPE_MESSAGE": 0,  # a message of a user
    "MSG_TYPE_WARNING": 1,  # yellow
    "MSG_TYPE_ALERT": 2,  # red
    "MSG_TYPE_MUTED": 3,  # unobtrusive
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
    # Characters in a message; Discord and Slack allow 2,000 and 4,000.
    "CHAT_MESSAGE_MAX": 2000,
    # Characters in a frame: the longest message with every character escaped (12 each, as a
    # surrogate pair), and room for the rest. Longer frames are not parsed.
    "CHAT_FRAME_MAX": 25_000,
    # Frames per second that a socket may send in the long run, and frames in a burst. Nobody types
    # faster; the burst lets a page that reconnects rejoin its rooms.
    "CHAT_RATE": 5.0,
    "CHAT_BURST": 20,
    # Seconds for which a listener's permission for a staff-only room is cached. Commands are
    # checked every time; this limits how long a user can still *read* a room after a change that
    # the admin did not announce (SQL, a script, a logout elsewhere).
    "CHAT_ACCESS_SECONDS": 10.0,
}


def __getattr__(name: str) -> Any:
    if name in DEFAULTS:
        return getattr(settings, name, DEFAULTS[name])
    raise AttributeError(f"the chat has no setting {name!r}; it has {', '.join(DEFAULTS)}")
