"""Who may be in which room: decided here only, from the database, at each command.

A WebSocket may live for days, while the user and session that Channels put into its scope are
those of the handshake. So both are read again: whoever could not load a page now, because the
session ended, the password changed or the account was closed, has to log in here too.

`announce` tells open sockets that something changed; the admin calls it. Changes made elsewhere
are noticed at the next command, or by a listener in a staff-only room within CHAT_ACCESS_SECONDS
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
    """The user whose session opened this socket, as of now. Raises ClientError.

    Django's own `get_user` judges, which for a page takes a request and uses its session only.
    """
    session = scope["session"]
    fresh = session.__class__(session.session_key)
    user = get_user(SimpleNamespace(session=fresh))
    if not user.is_authenticated:
        raise ClientError(Code.USER_HAS_TO_LOGIN)
    return user


def room_for(user: AbstractBaseUser, room_id: int) -> Room:
    """The room, if there is one and `user` may be in it. Raises ClientError."""
    try:
        room = Room.objects.get(pk=room_id)
    except Room.DoesNotExist:
        raise ClientError(Code.ROOM_INVALID) from None
    if room.staff_only and not user.is_staff:
        raise ClientError(Code.ROOM_ACCESS_DENIED)
    return room


def announce(room_ids: Iterable[int], user_id: int | None = None) -> None:
    """Once the transaction holds, let all in these rooms (or one user in them) be checked again.

    A channel layer that is down does not undo the change: that is logged, and noticed later.
    """
    for room_id in room_ids:
        transaction.on_commit(partial(_announce_now, room_id, user_id), robust=True)


def _announce_now(room_id: int, user_id: int | None) -> None:
    event = {"type": "access.changed", "room": room_id, "user": user_id}
    async_to_sync(get_channel_layer().group_send)(group_name(room_id), event)
