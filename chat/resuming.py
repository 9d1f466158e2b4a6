"""Resumable WebSockets: the ASGI extension "websocket.resume", on the side of the consumer.

When a worker stops or dies, the server keeps the socket open and hands it to another worker, with
the last note that the consumer has sent. There, a new consumer finds it in `note()`, which is None
for the first one. Without the extension, the methods do nothing.

A message from the browser is delivered again if its worker dies before it has acknowledged it.
Messages that it causes carry an idempotency key (`once`), so that no browser gets one twice.

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
    """A mix-in, to be listed before Channels' WebsocketConsumer."""

    line_id: list[Any] | None = None
    scope: dict[str, Any]
    channel_layer: Any
    channel_name: str

    @property
    def _offer(self) -> dict[str, Any]:
        found: dict[str, Any] = (self.scope.get("extensions") or {}).get(EXTENSION) or {}
        return found

    def note(self) -> Any:
        """Return the note of the consumer before this one, or None if this is the first."""
        note = self._offer.get("note")
        return None if note is None else json.loads(note)

    def send_note(self, note: Any) -> None:
        """Send a note for the next consumer: any JSON value.

        A note that is too long withdraws the offer to resume: the socket ends with this process.
        """
        if not self._offer:
            return
        text = json.dumps(note).encode()
        kept = text if len(text) <= self._offer["note_bytes"] else None
        SyncConsumer.send(self, {"type": "websocket.resume.note", "note": kept})

    def once(self, about: object) -> Once:
        """Return a key for `send_once`, the same when the browser's message is delivered again."""
        if self.line_id is None:
            return None
        stream, number = self.line_id
        return f"{stream}/{about}", number

    def send_once(self, text: str, once: Once) -> None:
        """Send a text frame, unless one with the key `once` has been sent to this browser."""
        event = {"type": "websocket.send", "text": text}
        if once is not None and self._offer:
            event["once"] = once
        SyncConsumer.send(self, event)

    def detach(self) -> None:
        """Leave all groups, without notices: another process continues with this socket."""

    def websocket_receive(self, message: dict[str, Any]) -> None:
        self.line_id = message.get("id")
        try:
            super().websocket_receive(message)  # type: ignore[misc]
        finally:
            self.line_id = None  # later messages have other causes

    def websocket_disconnect(self, message: dict[str, Any]) -> None:
        self.line_id = message.get("id")
        super().websocket_disconnect(message)  # type: ignore[misc]

    def websocket_handover(self, message: dict[str, Any]) -> None:
        """Detach after the messages that have arrived: send one to this channel, behind them."""
        last = {"type": "last.message"}
        try:
            async_to_sync(self.channel_layer.send)(self.channel_name, last)
        except ChannelFull:
            self.last_message(last)

    def last_message(self, event: dict[str, Any]) -> None:
        """Detach, and stop this consumer without a disconnect."""
        self.detach()
        raise StopConsumer
