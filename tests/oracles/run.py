"""Run other people's tests of asyncio on our loop, in a process that gevent has patched.

    python tests/oracles/run.py                      both suites
    python tests/oracles/run.py asyncio test_tasks   one module of CPython's
    python tests/oracles/run.py asgiref --stock      the same on asyncio's own loop, unpatched

The oracles are CPython's tests of asyncio, which come with the interpreter that runs this file,
and asgiref's, which pip fetches into a temporary folder. What cannot pass is listed with its
reason in `cannot_pass.txt`; anything else that fails ends this script with exit code 1.

Each module runs in a process of its own (`child.py`) that reports every test as it starts and as
it ends. So a test that hangs costs only itself: its process is killed, and the next one goes on
behind it.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import glob
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = "{}.{}".format(*sys.version_info)

PATIENCE = 60
"""Seconds for which one test may say nothing before its process is killed."""

ASYNCIO = (
    "tasks futures futures2 locks queues streams timeouts runners taskgroups waitfor"
    " eager_task_factory context threads pep492 staggered events server sock_lowlevel"
    " buffered_proto sendfile sslproto ssl subprocess unix_events"
)
"""The modules whose loops come from the policy or from `create_event_loop`. Left out are those
that test stand-ins of a loop: base_events, selector_events, proactor_events, transports."""

WORDS = ("passed", "skipped", "cannot pass", "failed", "hung")
Outcomes = dict[str, tuple[str, str]]  # by the test's name: one of `WORDS`, and the error


class Rules:
    """What `cannot_pass.txt` says for this version of Python: patterns of tests' names."""

    def __init__(self, lines: list[str]) -> None:
        self.cannot: list[str] = []
        self.hanging: list[str] = []
        for line in lines:
            pattern, *words = line.partition("#")[0].split() or [""]
            versions = [word for word in words if word != "hangs"]
            if pattern and VERSION in (versions or [VERSION]):
                self.cannot.append(pattern)
                self.hanging += [pattern] if "hangs" in words else []

    def judge(self, outcomes: Outcomes) -> Outcomes:
        judged = dict(outcomes)
        for name, (word, error) in outcomes.items():
            listed = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.cannot)
            if word in ("failed", "hung") and listed:
                judged[name] = "cannot pass", error
        return judged


def listen(command: list[str], folder: Path, left_out: list[str]) -> Iterator[list[str]]:
    """What a child says, report by report; ends when it does, or after `PATIENCE` of silence."""
    reading, writing = os.pipe()
    quiet = None if os.environ.get("ORACLE_VERBOSE") else subprocess.DEVNULL
    process = subprocess.Popen(
        [*command, str(writing), json.dumps(left_out)],
        cwd=folder,
        pass_fds=[writing],
        stdout=quiet,
        stderr=quiet,
    )
    os.close(writing)
    heard = time.monotonic()

    def watch() -> None:
        while process.poll() is None:
            if time.monotonic() - heard > PATIENCE:
                process.kill()
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()
    with os.fdopen(reading) as lines:
        for line in lines:
            heard = time.monotonic()
            report = json.loads(line)
            yield report
            if report[0] == "end":
                break
    process.kill()  # what a test left running must not hold us up
    process.wait()


def run_module(suite: str, module: str, folder: Path, ours: bool, rules: Rules) -> Outcomes:
    whose = "ours" if ours else "stock"
    command = [sys.executable, str(HERE / "child.py"), suite, module, whose]
    outcomes: Outcomes = {}
    while True:
        current, loops = None, None
        done = [glob.escape(name) for name in outcomes]
        for what, name, detail in listen(command, folder, done + rules.hanging):
            if what == "start":
                current = name
            elif what == "end":
                loops = detail
            elif what == "left out":
                outcomes.setdefault(name, ("cannot pass", "not begun"))
            else:
                outcomes[name], current = (what, detail), None
        if loops:
            judged = rules.judge(outcomes)
            print(f"{module:28} {summary(judged)} ({loops})", flush=True)
            return judged
        if current is None:
            return outcomes | {module: ("failed", "the process ended before its tests had run")}
        outcomes[current] = "hung", f"no sign of life for {PATIENCE} s, or the process died"


def fetch_asgiref(folder: Path) -> Path:
    """The source package of the asgiref that is installed here, unpacked."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wanted = f"asgiref=={importlib.metadata.version('asgiref')}"
    source_only = ["--no-binary", ":all:", "--no-deps"]
    subprocess.run([*pip, "download", *source_only, "-d", str(folder), wanted], check=True)
    (archive,) = folder.glob("asgiref-*.tar.gz")
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(folder)], check=True)
    source = folder / archive.name.removesuffix(".tar.gz")
    if importlib.util.find_spec("pytest_asyncio") is None:
        # Into the folder that is first on the child's path.
        subprocess.run([*pip, "install", "-t", str(source), "pytest-asyncio"], check=True)
    return source


def modules_of(suite: str, folder: Path) -> list[str]:
    if suite == "asgiref":
        return sorted(f"tests/{path.name}" for path in folder.glob("tests/test_*.py"))
    found = Path(os.__file__).parent / "test" / "test_asyncio"
    if not found.exists():
        sys.exit(f"this Python has no tests of its own in {found}; on Debian: libpython3-testsuite")
    modules = [f"test_{name}" for name in ASYNCIO.split()]
    return [module for module in modules if (found / f"{module}.py").exists()]


def run_suite(suite: str, modules: list[str], ours: bool) -> Outcomes:
    rules = Rules((HERE / "cannot_pass.txt").read_text().splitlines() if ours else [])
    everything: Outcomes = {}
    with tempfile.TemporaryDirectory() as name:
        folder = fetch_asgiref(Path(name)) if suite == "asgiref" else Path(name)
        for module in modules or modules_of(suite, folder):
            everything |= run_module(suite, module, folder, ours, rules)
    return everything


def summary(outcomes: Outcomes) -> str:
    words = [word for word, _ in outcomes.values()]
    return ", ".join(f"{words.count(word)} {word}" for word in WORDS if word in words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", nargs="?", choices=["asyncio", "asgiref"])
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--stock", action="store_true", help="asyncio's own loop, unpatched")
    options = parser.parse_args()
    unexpected = 0
    for suite in [options.suite] if options.suite else ["asyncio", "asgiref"]:
        outcomes = run_suite(suite, options.modules, not options.stock)
        print(f"{suite} on Python {VERSION}: {summary(outcomes)}\n", flush=True)
        for name, (word, error) in outcomes.items():
            if word in ("failed", "hung"):
                unexpected += 1
                print(f"{word}: {name}\n    {error}", flush=True)
    return 1 if unexpected else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
