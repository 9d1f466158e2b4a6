"""One WebSocket, all of a user's rooms: an ordinary synchronous Channels consumer.

It decides the order of things: check, change, tell. What a frame means is decided in
`protocol.py`, who may be where in `access.py`, how fast is too fast in `rate.py`.

Channels calls the handlers of one socket one after another, so there is nothing to lock. A line
is encoded once, by its sender, and travels as text; members only pass it on.

Where the server offers the ASGI extension "websocket.resume", a socket outlives the process of its
consumer: `resuming.py` says how.

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
class Seat:
    """A room this socket is in: its row and the time (monotonic seconds) it was last checked."""

    room: Room
    checked: float


class ChatConsumer(Resumable, JsonWebsocketConsumer):
    """The conversation with one page.

    rooms: the rooms joined, by id. username: as of the last command.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rooms: dict[int, Seat] = {}
        self.username = ""
        self.bucket = TokenBucket(conf.CHAT_RATE, conf.CHAT_BURST, time.monotonic())

    # The socket

    def connect(self) -> None:
        user, note = self.scope["user"], self.note()
        lost = [] if note is None else self.sit_down_again(note)
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
            self.stand_up(room_id)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Obey one frame. Nothing that a browser can send ends its socket."""
        try:
            self.obey(text_data)
        except ClientError as error:
            self.refuse(error)
        except DatabaseError:
            logger.warning("a command failed at the database", exc_info=True)
            self.send_json(protocol.refused(Code.TRY_AGAIN))

    # Commands

    def obey(self, text: str | None) -> None:
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
            self.sit_down(room)
        self.send_json(protocol.joined(room_id, room.title))

    def leave(self, room_id: int) -> None:
        # No question of access: out is where everybody may be, even when the room is gone.
        if room_id in self.rooms:
            self.stand_up(room_id)
        self.send_json(protocol.left(room_id))

    def say(self, room_id: int, message: str) -> None:
        if room_id not in self.rooms:
            raise ClientError(Code.ROOM_ACCESS_DENIED)
        self.tell(self.admit(room_id), conf.MSG_TYPE_MESSAGE, message)

    # Seats

    def admit(self, room_id: int) -> Room:
        """The room, if this user may be in it at this moment. Raises ClientError."""
        try:
            user = current_user(self.scope)
            room = room_for(user, room_id)
        except ClientError as error:
            whole = error.code == Code.USER_HAS_TO_LOGIN
            error.lost = [joined for joined in self.rooms if whole or joined == room_id]
            raise
        self.username = user.get_username()
        if room_id in self.rooms:
            self.rooms[room_id] = Seat(room, time.monotonic())
        return room

    def sit_down(self, room: Room) -> None:
        async_to_sync(self.channel_layer.group_add)(room.group_name, self.channel_name)
        self.rooms[room.pk] = Seat(room, time.monotonic())
        self.notify(room, conf.MSG_TYPE_ENTER)
        self.leave_note()

    def stand_up(self, room_id: int) -> None:
        room = self.rooms.pop(room_id).room
        async_to_sync(self.channel_layer.group_discard)(room.group_name, self.channel_name)
        self.notify(room, conf.MSG_TYPE_LEAVE)
        self.leave_note()

    def sit_down_again(self, note: dict[str, Any]) -> list[int]:
        """Another process had this socket: go on in its rooms, where nobody has noticed.

        Before accept(), because that ends what is left there. Gives the rooms that were lost.
        """
        self.username, lost = note["username"], []
        for room_id in note["rooms"]:
            try:
                room = self.admit(room_id)
            except ClientError:  # the others are told
                lost.append(room_id)
                for room in Room.objects.filter(pk=room_id):
                    self.notify(room, conf.MSG_TYPE_LEAVE)
            else:
                async_to_sync(self.channel_layer.group_add)(room.group_name, self.channel_name)
                self.rooms[room.pk] = Seat(room, time.monotonic())
        return lost

    def leave_note(self) -> None:
        self.send_note({"username": self.username, "rooms": list(self.rooms)})

    def stand_aside(self) -> None:
        for seat in self.rooms.values():
            group = seat.room.group_name
            async_to_sync(self.channel_layer.group_discard)(group, self.channel_name)

    def refuse(self, error: ClientError) -> None:
        self.send_json(protocol.refused(error.code))
        for room_id in error.lost:
            self.stand_up(room_id)
            self.send_json(protocol.left(room_id))

    # To and from the room

    def notify(self, room: Room, msg_type: int) -> None:
        if conf.NOTIFY_USERS_ON_ENTER_OR_LEAVE_ROOMS:
            self.tell(room, msg_type)

    def tell(self, room: Room, msg_type: int, message: str | None = None) -> None:
        """To all in the room; to the others only, if it is but a notice."""
        event = {
            "type": "room.line",
            "room": room.pk,
            "staff_only": room.staff_only,
            "besides": None if message is not None else self.channel_name,
            "once": self.once(room.pk),
            "text": self.encode_json(protocol.line(msg_type, room.pk, self.username, message)),
        }
        async_to_sync(self.channel_layer.group_send)(room.group_name, event)

    def room_line(self, event: dict[str, Any]) -> None:
        """A line from the room; it may have been under way when this socket left."""
        if event["besides"] == self.channel_name:
            return
        if event["staff_only"]:
            self.check_again(event["room"], conf.CHAT_ACCESS_SECONDS)
        if event["room"] in self.rooms:
            self.send_once(event["text"], event["once"])

    def access_changed(self, event: dict[str, Any]) -> None:
        """The admin changed a room (user: None) or a user."""
        if event["user"] in (None, self.scope["user"].pk):
            self.check_again(event["room"], 0)

    def check_again(self, room_id: int, allowed_age: float) -> None:
        """Put this user out of a room they lost, if the last check is older (seconds)."""
        seat = self.rooms.get(room_id)
        if seat is None or time.monotonic() - seat.checked < allowed_age:
            return
        try:
            self.admit(room_id)
        except ClientError as error:
            self.refuse(error)
