"""`python -m thyme`: patch the standard library for gevent, then the command line (`cli/main.py`).

The patching comes before any other import, or what was imported would keep the blocking versions.
Only programs patch; no module of ours does when it is imported.
"""

import sys

from gevent import monkey

monkey.patch_all()

try:
    from psycogreen.gevent import patch_psycopg
except ImportError:
    pass  # without psycopg2 there is nothing to patch
else:
    patch_psycopg()

from thyme.cli.main import main  # noqa: E402 - after the patching

sys.exit(main())
