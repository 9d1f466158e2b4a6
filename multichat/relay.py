"""The chat's relay: the application of a server whose work is done by `manage.py runworker2`.

    python -m thyme multichat.relay:application

A server needs no Django and no Postgres, so none is imported here.
"""

from multichat.addresses import redis_url
from thyme.split.relay.gevent import Relay

application = Relay(redis_url())
