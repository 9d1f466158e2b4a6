"""The chat's relay: the application of a server that hands connections to `manage.py runworker2`.

    python -m thyme multichat.relay:application

It imports neither Django nor psycopg2, which such a server does not need.
"""

from multichat.addresses import redis_url
from thyme.split.relay.gevent import Relay

application = Relay(redis_url())
