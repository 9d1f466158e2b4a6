"""Permissions: which user may be in which room, read from the database at each command.

A WebSocket may stay open for days, while the user and session that Channels puts into its scope
are those of the handshake. So both are read again: a user who could not load a page now, because
the session has expired, the password has changed or the account was closed, must log in here, too.

`announce` notifies open sockets of a change; the admin calls it. Changes made elsewhere take effect
at the next command, and for a listener in a staff-only room within CHAT_ACCESS_SECONDS
(`consumers.py`).

Taught in notebooks/11_multichat.ipynb.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.contrib.auth import get_user
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from .errors import ClientError, Code
from .models import Room, group_name


def current_user(scope: Mapping[str, Any]) -> AbstractBaseUser:
    """Return the user of the session that opened this socket, as of now. Raises ClientError.

    Django's own `get_user` decides; it takes a request, of which it uses only the session.
    """
    session = scope["session"]
    fresh = session.__class__(session.session_key)
    user = get_user(SimpleNamespace(session=fresh))
    if not user.is_authenticated:
        raise ClientError(Code.USER_HAS_TO_LOGIN)
    return user


def room_for(user: AbstractBaseUser, room_id: int) -> Room:
    """Return the room if it exists and `user` may be in it. Raises ClientError."""
    try:
        room = Room.objects.get(pk=room_id)
    except Room.DoesNotExist:
        raise ClientError(Code.ROOM_INVALID) from None
    if room.staff_only and not user.is_staff:
        raise ClientError(Code.ROOM_ACCESS_DENIED)
    return room


def announce(room_ids: Iterable[int], user_id: int | None = None) -> None:
    """After the transaction commits, have all users in these rooms (or one of them) rechecked.

    If the channel layer fails, the change stands: Django logs the error, and the change takes
    effect later, as described above.
    """
    for room_id in room_ids:
        transaction.on_commit(partial(_announce_now, room_id, user_id), robust=True)


def _announce_now(room_id: int, user_id: int | None) -> None:
    event = {"type": "access.changed", "room": room_id, "user": user_id}
    async_to_sync(get_channel_layer().group_send)(group_name(room_id), event)
