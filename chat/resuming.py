"""A WebSocket that outlives the process of its consumer: the ASGI extension "websocket.resume".

The server keeps the socket open when a worker stops or dies, and opens it again in another one,
with the last note that the consumer has left. Here is what a consumer needs for that; `note()` is
None unless there was another one before. Without the extension nothing of this does anything.

A line of the browser is handed over again when its worker died before the server knew that it was
dealt with. What it led to is said with `once`, so that nobody reads it twice.

The extension is described in thyme/split/relay/connection.py; any server may offer it.
Taught in notebooks/13_when_things_die.ipynb.
"""

import json
from typing import Any

from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer
from channels.exceptions import ChannelFull, StopConsumer

EXTENSION = "websocket.resume"

Once = tuple[str, int] | list[Any] | None


class Resumable:
    """To be inherited from, before Channels' WebsocketConsumer."""

    line_id: list[Any] | None = None
    scope: dict[str, Any]
    channel_layer: Any
    channel_name: str

    @property
    def _offer(self) -> dict[str, Any]:
        found: dict[str, Any] = (self.scope.get("extensions") or {}).get(EXTENSION) or {}
        return found

    def note(self) -> Any:
        """What the consumer before this one has left; None when this is the first."""
        note = self._offer.get("note")
        return None if note is None else json.loads(note)

    def send_note(self, note: Any) -> None:
        """Leave a note for the next process, anything that JSON can say.

        One that is too long takes the offer back: the socket ends with this process.
        """
        if not self._offer:
            return
        text = json.dumps(note).encode()
        kept = text if len(text) <= self._offer["note_bytes"] else None
        SyncConsumer.send(self, {"type": "websocket.resume.note", "note": kept})

    def once(self, about: object) -> Once:
        """For `send_once`: names what is said now about something, should it be said again."""
        if self.line_id is None:
            return None
        stream, number = self.line_id
        return f"{stream}/{about}", number

    def send_once(self, text: str, once: Once) -> None:
        """Send a text frame, unless what `once` names has been sent to this browser already."""
        event = {"type": "websocket.send", "text": text}
        if once is not None and self._offer:
            event["once"] = once
        SyncConsumer.send(self, event)

    def stand_aside(self) -> None:
        """Another process goes on with this socket: leave without a word."""

    def websocket_receive(self, message: dict[str, Any]) -> None:
        self.line_id = message.get("id")
        try:
            super().websocket_receive(message)  # type: ignore[misc]
        finally:
            self.line_id = None  # what is said from now on has other reasons

    def websocket_disconnect(self, message: dict[str, Any]) -> None:
        self.line_id = message.get("id")
        super().websocket_disconnect(message)  # type: ignore[misc]

    def websocket_handover(self, message: dict[str, Any]) -> None:
        """Say what has come so far, then stand aside: a message to ourselves comes after it."""
        last = {"type": "last.message"}
        try:
            async_to_sync(self.channel_layer.send)(self.channel_name, last)
        except ChannelFull:
            self.last_message(last)

    def last_message(self, event: dict[str, Any]) -> None:
        self.stand_aside()
        raise StopConsumer
