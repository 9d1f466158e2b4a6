"""A relay for the tests of faults, for thyme (`application`) and any ASGI server (`asgi`)."""

import os

from thyme.split.flow_control import Queue
from thyme.split.relay.asyncio import AsgiRelay
from thyme.split.relay.gevent import Relay

_SECONDS = float(os.environ["WAIT_SECONDS"])
_OPTIONS = {kind: Queue(kind, capacity=20, seconds=_SECONDS) for kind in ("http", "websocket")}

application = Relay(os.environ["REDIS_URL"], **_OPTIONS)
asgi = AsgiRelay(os.environ["REDIS_URL"], **_OPTIONS)
