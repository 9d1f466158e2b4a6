"""`python -m bench.profile CASE`: a flame graph (SVG) of each process of a server in a case.

py-spy looks at the processes from outside, 200 times a second, while the case is repeated; the
server runs as it is. Widths are wall time in Python and in what Python calls (`--native` adds C).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.__main__ import start_services
from bench.cases import CASES, Case
from bench.servers import Running, running

RATE = 200
"""Samples a second: enough for a share of 1 % within a few seconds, and cheap."""


def main() -> int:
    """Write the graphs that were asked for."""
    options = _options()
    case = next((case for case in CASES if case.name == options.case), None)
    if case is None:
        print(f"no such case; there are: {', '.join(c.name for c in CASES)}", file=sys.stderr)
        return 2
    server = next((s for s in case.servers if s.name == options.server), None)
    if server is None:
        print(f"not in this case; there are: {[s.name for s in case.servers]}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    with running(server, start_services()) as started:
        case.run(started, 0.2)  # warm
        graphs = _record(case, started, options)
    print("\n".join(f"Written to {graph}" for graph in graphs))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    add = parser.add_argument
    add("case", help="a case of the benchmark: echo, room-100, …")
    add("--server", default="thyme", help="as the table names it (thyme)")
    add("--seconds", type=int, default=8, help="to look for (8)")
    add("--native", action="store_true", help="show what C code does, too")
    add("--output", type=Path, default=Path("bench/out"), help="folder for the graphs")
    return parser.parse_args()


def _record(case: Case, started: Running, options: argparse.Namespace) -> list[Path]:
    watchers, graphs = [], []
    with tempfile.TemporaryFile() as said:
        for number, pid in enumerate(started.pids()):
            name = f"{case.name}-{options.server.replace(' ', '-').replace(',', '')}-{number}.svg"
            graphs.append(options.output / name)
            command = [str(Path(sys.executable).parent / "py-spy"), "record", "--format"]
            command += ["flamegraph", "--rate", str(RATE), "--duration", str(options.seconds)]
            command += ["--output", str(graphs[-1]), "--pid", str(pid)]
            command += ["--native"] if options.native else ["--nonblocking"]
            watchers.append(subprocess.Popen(command, stdout=said, stderr=said))
        while any(watcher.poll() is None for watcher in watchers):
            case.run(started, 0.5)
        if any(watcher.returncode for watcher in watchers):
            said.seek(0)
            raise RuntimeError(f"py-spy failed:\n{said.read().decode()}")
    return graphs


if __name__ == "__main__":
    sys.exit(main())
