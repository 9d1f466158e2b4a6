"""Run Autobahn's fuzzing client, as it is, against thyme: RFC 6455 and RFC 7692, case by case.

    python tests/oracles/autobahn.py                   cases 1 to 7 and 10, in 11 seconds
    python tests/oracles/autobahn.py "9.*"             messages up to 16 MiB
    python tests/oracles/autobahn.py "12.*" "13.*"     compression; the greater part of an hour

The suite is written in Python 2.7, and that is the one thing this script cannot fetch: it looks
for `python2.7` in PATH and among pyenv's versions (`pyenv install 2.7`; or PYTHON2=/path/to/it).
The suite itself and what it needs come from PyPI and stay in `.autobahn/`, which git ignores.

Each case must be OK, NON-STRICT or INFORMATIONAL, in its behaviour and in how it closes; others
are named, and the exit code is 1. It is 77 ("skipped") when there is no Python 2.7.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PLACE = ROOT / ".autobahn"
SUITE = "autobahntestsuite==25.10.1"
FASTER = "wsaccel==0.6.3"
"""Masks in C; needs a compiler. The client is the slower side by far, so this halves the time."""
SKIPPED = 77  # as automake's tests say it

FRAMING_TO_CLOSING = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
LARGEST_MESSAGE = 32 * 1024 * 1024
"""Bytes, for the server: the suite's own are up to 16 MiB."""

_WSTEST = """
import site, sys
site.addsitedir(sys.argv.pop(1))
from autobahntestsuite.wstest import run
run()
"""


def python2() -> str | None:
    """Where an interpreter of Python 2.7 is, if anywhere."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    known = [os.environ.get("PYTHON2"), shutil.which("python2.7")]
    known += [str(path) for path in pyenv.glob("versions/2.7*/bin/python2.7")]
    for candidate in known:
        if candidate and subprocess.run([candidate, "-V"], capture_output=True).returncode == 0:
            return candidate  # pyenv's shims are there without being able to run
    return None


def fetch(interpreter: str) -> Path:
    """The folder with the suite and what it needs."""
    packages = PLACE / "packages"
    if not (packages / "autobahntestsuite").exists():
        print(f"fetching {SUITE} for {interpreter} …", flush=True)
        install = [interpreter, "-m", "pip", "install", "--quiet", "--target", str(packages)]
        subprocess.run([*install, SUITE], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([*install, FASTER], check=False, stderr=subprocess.DEVNULL)
    return packages


def run_cases(interpreter: str, packages: Path, place: str, cases: list[str]) -> dict[str, dict]:
    """What the suite says of each case."""
    reports = PLACE / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    spec = PLACE / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "outdir": str(reports),
                "servers": [{"agent": "thyme", "url": place.replace("http:", "ws:")}],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    command = [interpreter, "-c", _WSTEST, str(packages), "-m", "fuzzingclient", "-s", str(spec)]
    with open(PLACE / "wstest.log", "w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    found: dict[str, dict] = json.loads((reports / "index.json").read_text())["thyme"]
    return found


def judged(results: dict[str, dict]) -> int:
    """Print the summary; how many have failed."""
    words = collections.Counter(result["behavior"] for result in results.values())
    print(f"{len(results)} cases:", ", ".join(f"{words[word]} {word}" for word in sorted(words)))
    failed = [
        case
        for case, result in results.items()
        if not {result["behavior"], result["behaviorClose"]} <= GOOD
    ]
    for case in failed:
        print(f"failed: {case}: {PLACE / 'reports' / results[case]['reportfile']}")
    return len(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", default=FRAMING_TO_CLOSING, metavar="CASES")
    options = parser.parse_args()
    interpreter = python2()
    if interpreter is None:
        print("Autobahn is written in Python 2.7, which is not here; PYTHON2=… says where it is")
        return SKIPPED
    packages = fetch(interpreter)
    size = str(LARGEST_MESSAGE)
    command = [sys.executable, "-m", "thyme", "tests.oracles.echo:application", "--port", "0",
               "--compress", "--message-bytes", size, "--stop-on-eof"]  # fmt: skip
    server = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        place = server.stdout.readline().rpartition(" ")[2].strip()
        results = run_cases(interpreter, packages, place, options.cases)
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()
    return 1 if judged(results) or not results else 0


if __name__ == "__main__":
    sys.exit(main())
