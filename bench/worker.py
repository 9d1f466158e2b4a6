"""A worker: `python bench/worker.py` is `manage.py runworker2`."""

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.settings")

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    from django.core.management import execute_from_command_line

    execute_from_command_line([sys.argv[0], "runworker2"])
