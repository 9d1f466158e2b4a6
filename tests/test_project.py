"""What holds the repository together: its arrows, its two lists of packages, its Makefile.

Imports are read from the sources, not from running modules, so the rules also hold for what is
imported inside functions.
"""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("thyme", "gredis", "multichat", "chat")


# --- reading imports ----------------------------------------------------------------------


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_files(folder: Path, pattern: str = "*.py") -> Iterator[Path]:
    """The files below `folder`, without the copies that JupyterLab and other editors hide there."""
    for path in folder.rglob(pattern):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


@cache
def sources() -> dict[str, Path]:
    """Each module of ours, by its dotted name."""
    files = [path for package in PACKAGES for path in python_files(ROOT / package)]
    return {module_name(path): path for path in sorted(files)}


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not is_for_types_only(child):
            yield from statements(child)


@cache
def imports(module: str) -> frozenset[str]:
    """The dotted names that `module` imports; of ours, the module that has the name."""
    path = sources()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, node.module] if node.module else above) if node.level else ""
        base = base or node.module or ""
        names = {f"{base}.{alias.name}" for alias in node.names}
        found |= {name if name in sources() else base for name in names}
    return frozenset(found)


def closure(module: str, without: frozenset[str] = frozenset()) -> set[str]:
    """All that `module` imports, directly or through modules of ours other than `without`."""
    seen: set[str] = set()
    todo = {module}
    while todo:
        reached = imports(todo.pop()) - seen - without
        seen |= reached
        todo |= reached & sources().keys()
    return seen


def within(names: set[str] | frozenset[str], packages: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in packages}


def modules_of(package: str) -> list[str]:
    return [name for name in sources() if name.partition(".")[0] == package]


def test_copies_that_an_editor_hides_are_not_sources(tmp_path):
    for place in ("a.py", ".ipynb_checkpoints/a-checkpoint.py", "b/.ipynb_checkpoints/c.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert list(python_files(tmp_path)) == [tmp_path / "a.py"]


# --- the arrows of the design -------------------------------------------------------------


@pytest.mark.parametrize("module", modules_of("chat"))
def test_chat_knows_django_and_channels_only(module):
    allowed = {"chat", "django", "channels", "asgiref"} | sys.stdlib_module_names - {"asyncio"}
    assert {name for name in imports(module) if name.partition(".")[0] not in allowed} == set()


@pytest.mark.parametrize("module", modules_of("thyme"))
def test_only_relay_and_worker_of_thyme_know_gredis(module):
    assert within(imports(module), {"multichat", "chat"}) == set()
    if not re.match(r"thyme\.(split|management\.commands\.runworker2)", module):
        assert within(imports(module), {"gredis"}) == set()


@pytest.mark.parametrize("module", modules_of("gredis"))
def test_gredis_knows_nothing_else_of_ours(module):
    assert within(imports(module), {"thyme", "multichat", "chat"}) == set()


CORE = [
    name for name in sources() if re.fullmatch(r"gredis\.(names|messages|router|hub\.state)", name)
]
PROTOCOLS = [name for name in sources() if name.startswith("thyme.protocol.")]
IO = {"gevent", "asyncio", "socket", "select", "selectors", "ssl", "threading", "redis"}


@pytest.mark.parametrize("module", CORE + PROTOCOLS)
def test_protocols_and_the_core_do_no_io(module):
    assert within(closure(module), IO) == set()


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_no_clock(module):
    assert within(closure(module), {"time", "datetime"}) == set()


def test_the_server_itself_does_not_import_asyncio():
    reached = closure("thyme.server.server")
    assert "thyme.server.connection" in reached
    assert within(reached, {"asyncio", "asgiref"}) == set()


def is_patching(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and "monkey.patch_" in ast.unparse(node.func)


def test_only_programs_patch_the_standard_library():
    """A module that patches on import would wedge a notebook's kernel."""
    files = [*sources().values(), ROOT / "manage.py"]
    patching = {
        path for path in files if any(map(is_patching, ast.walk(ast.parse(path.read_text()))))
    }
    programs = {"thyme/__main__.py", "thyme/run.py", "manage.py"}
    assert {str(path.relative_to(ROOT)) for path in patching} <= programs


# --- two lists of packages ----------------------------------------------------------------

CONDA_NAMES = {  # where conda-forge calls a project otherwise than PyPI
    "redis": "redis-py",
    "msgpack": "msgpack-python",
    "psycopg2-binary": "psycopg2",
    "matplotlib": "matplotlib-base",
}
CONDA_ONLY = {"python", "pip", "redis-server", "postgresql"}


def split(requirement: str) -> tuple[str, list[str], str]:
    """Name, extras and version of a requirement as pip or conda writes it."""
    plain = requirement.partition(";")[0].replace(" ", "")
    name, extras, version = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?(.*)", plain).groups()
    return name.lower(), (extras or "").split(",") if extras else [], version


def from_pyproject() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {"python": project["requires-python"]}
    for name, extras, version in (split(line) for lines in lists for line in lines):
        if name != project["name"]:
            wanted[CONDA_NAMES.get(name, name)] = version
            wanted |= dict.fromkeys(extras, "")
    return wanted


def from_conda() -> dict[str, str]:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (by_pip,) = [line["pip"] for line in lines if isinstance(line, dict)]
    both = [line for line in lines if isinstance(line, str)] + by_pip
    return {name: version for name, _, version in map(split, both)}


def test_conda_gets_the_same_packages_and_versions_as_pip():
    conda, pip = from_conda(), from_pyproject()
    assert {name: conda.get(name) for name in pip} == pip


def test_conda_gets_no_packages_that_pyproject_does_not_name():
    assert from_conda().keys() - from_pyproject().keys() - CONDA_ONLY == set()


# --- the Makefile -------------------------------------------------------------------------


def test_make_without_a_target_names_the_targets():
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in said for target in ("chat", "test", "lab", "check"))


def test_make_says_what_is_missing_when_python_is_too_old(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    made = subprocess.run(
        ["make", "chat", "PYTHON=false"], cwd=tmp_path, capture_output=True, text=True
    )
    assert made.returncode != 0
    assert "older than 3.11" in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_readme_shows_the_gunicorn_configuration_that_is_tested():
    from tests.thyme.loop.test_gunicorn import CONFIGURATION

    assert f"```python\n{CONFIGURATION}```" in (ROOT / "README.md").read_text()


def test_each_test_that_the_readme_names_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "README.md").read_text()))
    texts = [path.read_text() for path in python_files(ROOT / "tests", "test_*.py")]
    assert {name for name in named if not any(f"def {name}(" in text for text in texts)} == set()
    assert named
