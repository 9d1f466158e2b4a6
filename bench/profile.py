"""`python -m bench.profile CASE`: a flame graph (SVG) of each process of a server in a case.

py-spy samples the unmodified processes from outside, 200 times per second, while the case is
repeated. Widths are wall time in Python code and in what it calls (`--native` shows C functions).
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
"""Samples per second: enough to see a share of 1 % within seconds, and cheap."""


def main() -> int:
    """Write the flame graphs; return the exit code."""
    options = _options()
    case = next((case for case in CASES if case.name == options.case), None)
    if case is None:
        print(f"no such case; choose from: {', '.join(c.name for c in CASES)}", file=sys.stderr)
        return 2
    server = next((s for s in case.servers if s.name == options.server), None)
    if server is None:
        print(
            f"no such server; choose from: {', '.join(s.name for s in case.servers)}",
            file=sys.stderr,
        )
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    with running(server, start_services()) as started:
        case.run(started, 0.2)  # warm
        graphs = _record(case, started, options)
    print("\n".join(f"Wrote {graph}" for graph in graphs))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    add = parser.add_argument
    add("case", help="case of the benchmark: echo, room-100, …")
    add("--server", default="thyme", help="server, as named in the table (default: thyme)")
    add("--seconds", type=int, default=8, help="duration (default: 8)")
    add("--native", action="store_true", help="show C functions, too")
    add(
        "--output",
        type=Path,
        default=Path("bench/out"),
        help="folder for the graphs (default: bench/out)",
    )
    return parser.parse_args()


def _record(case: Case, started: Running, options: argparse.Namespace) -> list[Path]:
    recorders, graphs = [], []
    with tempfile.TemporaryFile() as output:
        for number, pid in enumerate(started.pids()):
            name = f"{case.name}-{options.server.replace(' ', '-').replace(',', '')}-{number}.svg"
            graphs.append(options.output / name)
            command = [str(Path(sys.executable).parent / "py-spy"), "record", "--format"]
            command += ["flamegraph", "--rate", str(RATE), "--duration", str(options.seconds)]
            command += ["--output", str(graphs[-1]), "--pid", str(pid)]
            command += ["--native"] if options.native else ["--nonblocking"]
            recorders.append(subprocess.Popen(command, stdout=output, stderr=output))
        while any(recorder.poll() is None for recorder in recorders):
            case.run(started, 0.5)
        if any(recorder.returncode for recorder in recorders):
            output.seek(0)
            raise RuntimeError(f"py-spy failed:\n{output.read().decode()}")
    return graphs


if __name__ == "__main__":
    sys.exit(main())
