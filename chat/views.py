"""The page. Its content arrives over the WebSocket (`consumers.py`)."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from . import conf
from .models import Room
from .routing import STREAM_PATH


@login_required
def index(request: HttpRequest) -> HttpResponse:
    """Return the page with all rooms. Staff-only rooms are listed, too; joining them is refused."""
    shown = conf.MESSAGE_TYPES_LIST
    context = {
        "rooms": Room.objects.all(),
        "stream": f"/{STREAM_PATH}",
        "message_max": conf.CHAT_MESSAGE_MAX,
        "types": {str(n): name.lower() for n, name in conf.MESSAGE_TYPES_CHOICES if n in shown},
    }
    return render(request, "chat/index.html", context)
