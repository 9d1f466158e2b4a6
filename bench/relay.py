"""The relay of the split: the server's half."""

import os

from thyme.split.relay.gevent import Relay

application = Relay(os.environ["REDIS_URL"])
