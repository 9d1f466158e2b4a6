#!/usr/bin/env python
"""Django's command line for the chat.

`runworker2` runs on gevent, so it patches the standard library before anything else is
imported; every other command is plain Django.
"""

import os
import sys

if sys.argv[1:2] == ["runworker2"]:
    from gevent import monkey

    monkey.patch_all()

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "multichat.settings")
    execute_from_command_line(sys.argv)
