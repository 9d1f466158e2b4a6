"""`python -m bench`: run the cases, print a table for each, write a JSON file and plots.

Repetitions are interleaved: every server once, then every server again, and the median is kept.
Each case has its share of `--minutes`; when that is used up, its other repetitions are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from tqdm import tqdm

from bench import layers
from bench.cases import CASES, Case
from bench.generator import GaveUp
from bench.report import overview, plot, table
from bench.servers import running

Figures = dict[str, float]


def main() -> int:
    """Run the selected cases; return 0, or 2 if there is no such case."""
    options = _options()
    cases = [case for case in CASES if not options.case or case.name in options.case]
    send_to_groups = not options.case or layers.NAME in options.case
    if not (cases or send_to_groups):
        names = [*(case.name for case in CASES), layers.NAME]
        print(f"no such case; choose from: {', '.join(names)}", file=sys.stderr)
        return 2
    base = json.loads(Path(options.base).read_text()) if options.base else None
    results: dict[str, dict[str, Figures]] = {}
    tables = []
    _allow_many_sockets()
    services = start_services()
    options.case_seconds = options.minutes * 60 / max(1, len(cases))
    total = sum(len(_servers(case, options.server)) for case in cases) * options.repetitions
    with tqdm(total=total, unit="run", disable=not sys.stderr.isatty()) as progress:
        for case in cases:
            results[case.name] = _measure(case, options, services, progress)
            tables.append(table(case, results[case.name], base))
            progress.clear()
            print(tables[-1], flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    if send_to_groups:
        results[layers.NAME] = layers.run(options.output)
    written = {"machine": _machine(), "results": results}
    (options.output / "results.json").write_text(json.dumps(written, indent=1))
    (options.output / "tables.md").write_text("\n".join(tables) + "\n")
    for case in cases:
        plot(case, results[case.name], options.output)
    overview(cases, results, options.output)
    print(
        f"Wrote results.json, tables.md and plots (PNG, SVG; one for each case and an overview) to "
        f"{options.output}/"
    )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--case", action="append", help="run only this case (repeatable)")
    add(
        "--server",
        action="append",
        help="run only servers with this prefix (repeatable)",
    )
    add("--repetitions", type=int, default=3, help="repetitions of each case (default: 3)")
    add("--size", type=float, default=1.0, help="amount of work: 0.1 for a quick look (default: 1)")
    add(
        "--minutes",
        type=float,
        default=40.0,
        help="skip repetitions after this (default: 40)",
    )
    add("--base", help="results.json to compare with")
    add(
        "--output",
        type=Path,
        default=Path("bench/out"),
        help="folder for the results (default: %(default)s)",
    )
    return parser.parse_args()


def _servers(case: Case, prefixes: list[str] | None) -> list[str]:
    return [
        server.name
        for server in case.servers
        if not prefixes or any(server.name.startswith(prefix) for prefix in prefixes)
    ]


def _measure(
    case: Case, options: argparse.Namespace, services: dict[str, str], progress: tqdm
) -> dict[str, Figures]:
    wanted = _servers(case, options.server)
    figures: dict[str, list[Figures]] = defaultdict(list)
    until = time.monotonic() + options.case_seconds
    for repetition in range(options.repetitions):
        if repetition and time.monotonic() > until:
            progress.update(len(wanted) * (options.repetitions - repetition))
            break
        for server in case.servers:
            if server.name not in wanted:
                continue
            progress.set_description(f"{case.name}: {server.name}")
            try:
                with running(server, services) as started:
                    figures[server.name].append(case.run(started, options.size).figures())
            except (GaveUp, OSError, RuntimeError) as error:
                progress.write(f"{case.name}: {server.name}: {error}", file=sys.stderr)
            progress.update()
    return {
        name: {key: median(run[key] for run in runs) for key in runs[0]} | {"runs": len(runs)}
        for name, runs in figures.items()
        if runs
    }


def start_services() -> dict[str, str]:
    """Return the environment with Redis and PostgreSQL, configured or embedded."""
    from multichat.addresses import database_url, redis_url

    os.environ.setdefault("THYME_STATE", tempfile.gettempdir() + "/thyme-bench")
    return {
        "REDIS_URL": redis_url(),
        "DATABASE_URL": database_url(),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _allow_many_sockets() -> None:
    """Raise the soft limit, usually 1,024: the generator and the server have 2,000 sockets each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))


def _machine() -> dict[str, object]:
    return {"python": platform.python_version(), "system": platform.platform(),
            "cores": os.cpu_count()}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
