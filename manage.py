#!/usr/bin/env python
"""Django's command line for the chat.

`runworker2` and `runserver` run on gevent, so the standard library is patched before any other
import. All other commands, and `runworker2 --loop asyncio`, run without gevent.
"""

import os
import sys

if sys.argv[1:2] in (["runworker2"], ["runserver"]) and not (
    {"asyncio", "--loop=asyncio"} & set(sys.argv)
):
    from gevent import monkey

    monkey.patch_all()

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "multichat.settings")
    execute_from_command_line(sys.argv)
