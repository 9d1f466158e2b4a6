"""A relay for the tests of faults, for thyme (`application`) and any ASGI server (`asgi`)."""

import os

from thyme.relay import Queue, Relay
from thyme.relay_asgi import AsgiRelay

_SECONDS = float(os.environ["WAIT_SECONDS"])
_OPTIONS = {kind: Queue(kind, letters=20, seconds=_SECONDS) for kind in ("http", "websocket")}

application = Relay(os.environ["REDIS_URL"], **_OPTIONS)
asgi = AsgiRelay(os.environ["REDIS_URL"], **_OPTIONS)
