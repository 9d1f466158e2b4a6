"""The chat's relay for Daphne, Uvicorn, Hypercorn and other ASGI servers on asyncio.

    uvicorn multichat.relay_asgi:application

Like `relay.py`, which is for thyme, it imports neither Django nor psycopg2, and no gevent.
"""

from multichat.addresses import redis_url
from thyme.split.relay.asyncio import AsgiRelay

application = AsgiRelay(redis_url())
