"""The chat: many rooms over one WebSocket per page. It depends on Django and Channels only.

Read in this order: `protocol.py`, the messages; `access.py`, the permissions; `consumers.py`, the
WebSocket consumer; `templates/chat/index.html` with `static/chat/chat.js`, the page.
"""
