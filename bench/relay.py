"""The application of a server whose connections are served by workers."""

import os

from thyme.split.relay.gevent import Relay

application = Relay(os.environ["REDIS_URL"])
