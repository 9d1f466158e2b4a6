"""The chat's relay for Daphne, Uvicorn, Hypercorn and other ASGI servers on asyncio.

    uvicorn multichat.relay_asgi:application

As `relay.py`, which is for thyme; neither imports Django, Postgres or, here, gevent.
"""

from multichat.addresses import redis_url
from thyme.split.relay.asyncio import AsgiRelay

application = AsgiRelay(redis_url())
