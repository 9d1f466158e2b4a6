"""`python -m thyme`: patch the standard library for gevent, then run `cli/main.py`.

Patching precedes all other imports, because modules that are imported earlier keep references to
the blocking functions. Only programs patch; importing a module of this package never does.
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
