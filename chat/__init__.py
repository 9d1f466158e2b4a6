"""The chat: many rooms over one WebSocket per page. It knows Django and Channels, nothing else.

What is said on the wire is `protocol.py`; who may be where is `access.py`; the conversation is
`consumers.py`; the page is `templates/chat/index.html` with `static/chat/chat.js`. Read them in
that order.
"""
