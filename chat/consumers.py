"""One WebSocket for all rooms of a user: an ordinary synchronous Channels consumer.

A command is executed in three steps: check permissions, change the state, notify the room. The
meaning of frames is in `protocol.py`, permissions are in `access.py`, the rate limit is in
`rate.py`.

Channels calls the handlers of a socket one after another, so no locks are needed. A message is
encoded once, by its sender, and travels as text; the members of the room only forward it.

If the server offers the ASGI extension "websocket.resume", a socket outlives the process of its
consumer; see `resuming.py`.

Taught in notebooks/11_multichat.ipynb.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync
from channels.generic.websocket import JsonWebsocketConsumer
from django.db import Error as DatabaseError

from . import conf, protocol
from .access import current_user, room_for
from .errors import ClientError, Code
from .models import Room
from .protocol import Join, Leave, Say
from .rate import TokenBucket
from .resuming import Resumable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Membership:
    """A room that this socket has joined, and the time of the last check (monotonic seconds)."""

    room: Room
    checked: float


class ChatConsumer(Resumable, JsonWebsocketConsumer):
    """The consumer of one page.

    rooms: the rooms joined, by id. username: as of the last command.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rooms: dict[int, Membership] = {}
        self.username = ""
        self.bucket = TokenBucket(conf.CHAT_RATE, conf.CHAT_BURST, time.monotonic())

    # The socket

    def connect(self) -> None:
        user, note = self.scope["user"], self.note()
        lost = [] if note is None else self.rejoin(note)
        if not user.is_authenticated:
            self.close()  # before accept(): the handshake is answered with 403 (ASGI)
            return
        self.username = user.get_username()
        self.accept()
        for room_id in lost:
            self.send_json(protocol.left(room_id))
        self.leave_note()

    def disconnect(self, code: int) -> None:
        for room_id in list(self.rooms):
            self.exit(room_id)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Execute the command in one frame. No frame of a browser closes its socket."""
        try:
            self.execute(text_data)
        except ClientError as error:
            self.refuse(error)
        except DatabaseError:
            logger.warning("a command failed because of the database", exc_info=True)
            self.send_json(protocol.refused(Code.TRY_AGAIN))

    # Commands

    def execute(self, text: str | None) -> None:
        if not self.bucket.take(time.monotonic()):
            raise ClientError(Code.TOO_FAST)
        match protocol.parse(text):
            case Join(room_id):
                self.join(room_id)
            case Leave(room_id):
                self.leave(room_id)
            case Say(room_id, message):
                self.say(room_id, message)

    def join(self, room_id: int) -> None:
        was_in = room_id in self.rooms
        room = self.admit(room_id)
        if not was_in:
            self.enter(room)
        self.send_json(protocol.joined(room_id, room.title))

    def leave(self, room_id: int) -> None:
        # Leaving needs no permission, and works for a room that has been deleted.
        if room_id in self.rooms:
            self.exit(room_id)
        self.send_json(protocol.left(room_id))

    def say(self, room_id: int, message: str) -> None:
        if room_id not in self.rooms:
            raise ClientError(Code.ROOM_ACCESS_DENIED)
        self.broadcast(self.admit(room_id), conf.MSG_TYPE_MESSAGE, message)

    # Membership

    def admit(self, room_id: int) -> Room:
        """Return the room if the user may be in it at this moment. Raises ClientError."""
        try:
            user = current_user(self.scope)
            room = room_for(user, room_id)
        except ClientError as error:
            logged_out = error.code == Code.USER_HAS_TO_LOGIN
            error.lost = [joined for joined in self.rooms if logged_out or joined == room_id]
            raise
        self.username = user.get_username()
        if room_id in self.rooms:
            self.rooms[room_id] = Membership(room, time.monotonic())
        return room

    def enter(self, room: Room) -> None:
        async_to_sync(self.channel_layer.group_add)(room.group_name, self.channel_name)
        self.rooms[room.pk] = Membership(room, time.monotonic())
        self.notify(room, conf.MSG_TYPE_ENTER)
        self.leave_note()

    def exit(self, room_id: int) -> None:
        room = self.rooms.pop(room_id).room
        async_to_sync(self.channel_layer.group_discard)(room.group_name, self.channel_name)
        self.notify(room, conf.MSG_TYPE_LEAVE)
        self.leave_note()

    def rejoin(self, note: dict[str, Any]) -> list[int]:
        """Join the rooms in which another process has served this socket, without notices.

        Called before accept(), which lets the other process stop. Returns the ids of the rooms that
        the user may not be in any more.
        """
        self.username, lost = note["username"], []
        for room_id in note["rooms"]:
            try:
                room = self.admit(room_id)
            except ClientError:  # the other members get a notice
                lost.append(room_id)
                for room in Room.objects.filter(pk=room_id):
                    self.notify(room, conf.MSG_TYPE_LEAVE)
            else:
                async_to_sync(self.channel_layer.group_add)(room.group_name, self.channel_name)
                self.rooms[room.pk] = Membership(room, time.monotonic())
        return lost

    def leave_note(self) -> None:
        self.send_note({"username": self.username, "rooms": list(self.rooms)})

    def detach(self) -> None:
        for membership in self.rooms.values():
            group = membership.room.group_name
            async_to_sync(self.channel_layer.group_discard)(group, self.channel_name)

    def refuse(self, error: ClientError) -> None:
        self.send_json(protocol.refused(error.code))
        for room_id in error.lost:
            self.exit(room_id)
            self.send_json(protocol.left(room_id))

    # Messages to and from the room

    def notify(self, room: Room, msg_type: int) -> None:
        if conf.NOTIFY_USERS_ON_ENTER_OR_LEAVE_ROOMS:
            self.broadcast(room, msg_type)

    def broadcast(self, room: Room, msg_type: int, message: str | None = None) -> None:
        """Send a message to all members of the room, or a notice to all but this one."""
        event = {
            "type": "room.line",
            "room": room.pk,
            "staff_only": room.staff_only,
            "exclude": None if message is not None else self.channel_name,
            "once": self.once(room.pk),
            "text": self.encode_json(protocol.line(msg_type, room.pk, self.username, message)),
        }
        async_to_sync(self.channel_layer.group_send)(room.group_name, event)

    def room_line(self, event: dict[str, Any]) -> None:
        """Forward a message from the room, unless this socket has left it meanwhile."""
        if event["exclude"] == self.channel_name:
            return
        if event["staff_only"]:
            self.recheck(event["room"], conf.CHAT_ACCESS_SECONDS)
        if event["room"] in self.rooms:
            self.send_once(event["text"], event["once"])

    def access_changed(self, event: dict[str, Any]) -> None:
        """Recheck after the admin has changed a room (user: None) or a user."""
        if event["user"] in (None, self.scope["user"].pk):
            self.recheck(event["room"], 0)

    def recheck(self, room_id: int, allowed_age: float) -> None:
        """Remove the user from a room if permission is gone; skip if checked in `allowed_age` s."""
        membership = self.rooms.get(room_id)
        if membership is None or time.monotonic() - membership.checked < allowed_age:
            return
        try:
            self.admit(room_id)
        except ClientError as error:
            self.refuse(error)
