"""Thyme: a gevent HTTP and WebSocket server, an asyncio loop on gevent's hub, relay and workers.

Nothing is imported here, and no module of this package patches anything when it is imported:
only the programs `python -m thyme`, `python thyme/run.py` and `manage.py runworker2` do.

Read `server/server.py` first, then `server/connection.py`.
"""
