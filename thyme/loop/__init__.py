"""asyncio on gevent's hub.

One call, in a process that gevent has patched, before the first event loop is made:

>>> from gevent import monkey; monkey.patch_all()
>>> import thyme.loop; thyme.loop.install()

Read next: `event_loop.py`.
"""

from thyme.loop.event_loop import HubLoop, HubLoopPolicy, install
from thyme.loop.shared import close_shared_loop

__all__ = ["HubLoop", "HubLoopPolicy", "close_shared_loop", "install"]
