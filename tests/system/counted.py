"""python -m tests.system.counted PROGRAM …: runs it, and on SIGUSR2 says how many greenlets it has.

One line on standard output, "greenlets N": those that have begun and not ended.
"""

from __future__ import annotations

import gc
import runpy
import signal
import sys


def say(number: int, frame: object) -> None:
    from greenlet import greenlet

    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, greenlet) and not each.dead]
    print(f"greenlets {len([each for each in found if each.gr_frame])}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, say)
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
