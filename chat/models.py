"""The rooms, which are all that the chat stores. Messages are not stored.

Taught in notebooks/11_multichat.ipynb.
"""

from django.db import models


class Room(models.Model):
    """A room to chat in."""

    title = models.CharField(max_length=255)
    staff_only = models.BooleanField(
        default=False,
        help_text="Only staff may enter and stay.",
    )

    class Meta:
        ordering = ("title", "id")

    def __str__(self) -> str:
        return self.title

    @property
    def group_name(self) -> str:
        """The channel layer group of the sockets that have joined this room."""
        return group_name(self.pk)


def group_name(room_id: int) -> str:
    """Return the name of the channel layer group of a room."""
    return f"chat.room.{room_id}"
