"""The rules that hold the repository together: its layers, its lists of packages, its Makefile.

Imports are read from the sources, not from running modules, so the rules also hold for imports
inside functions. `docs/architecture.md` explains the layers.
"""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
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


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module].read_text())


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def statements(node: ast.AST, in_functions: bool = True) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not is_for_types_only(child) and (in_functions or not isinstance(child, FUNCTIONS)):
            yield from statements(child, in_functions)


@cache
def imports(module: str, in_functions: bool = True) -> frozenset[str]:
    """The dotted names that `module` imports; of ours, the module that has the name."""
    is_package = sources()[module].name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    found = set()
    for node in statements(tree(module), in_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, node.module] if node.module else above) if node.level else ""
        base = base or node.module or ""
        names = {f"{base}.{alias.name}" for alias in node.names}
        found |= {name if name in sources() else base for name in names}
    return frozenset(found)


def packages_above(module: str) -> set[str]:
    """The packages whose `__init__` runs before `module` is imported."""
    parts = module.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))} & sources().keys()


def closure(module: str) -> set[str]:
    """All that is imported with `module`, directly, through modules of ours, or by a package.

    Imports inside the functions of an `__init__` are left out: they run only when a public name is
    asked for.
    """
    seen: set[str] = set()
    todo = {module}
    while todo:
        name = todo.pop()
        is_package = sources()[name].name == "__init__.py"
        reached = imports(name, in_functions=not is_package) | packages_above(name)
        todo |= (reached - seen) & sources().keys()
        seen |= reached
    return seen


def within(names: set[str] | frozenset[str], packages: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in packages}


def modules_of(*packages: str) -> list[str]:
    return [name for name in sources() if name.partition(".")[0] in packages]


def test_copies_that_an_editor_hides_are_not_sources(tmp_path):
    for place in ("a.py", ".ipynb_checkpoints/a-checkpoint.py", "b/.ipynb_checkpoints/c.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert list(python_files(tmp_path)) == [tmp_path / "a.py"]


# --- the layers ---------------------------------------------------------------------------

BOTTOM = {"thyme.asgi", "thyme.errors", "thyme.config", "thyme.replaced"}
SERVING = {"thyme.protocol", "thyme.loop", "thyme.fastpath", "thyme.server", "thyme.loading"}
PROGRAMS = {"thyme.cli", "thyme.management", "thyme.run", "thyme.testing", "thyme.__main__"}

LAYERS: dict[str, set[str]] = {
    # Folder or module, from the bottom up: the others of ours that it may import.
    "thyme.asgi": set(),
    "thyme.errors": set(),
    "thyme.config": {"thyme.errors"},
    "thyme.replaced": {"thyme.errors"},
    "thyme.protocol": BOTTOM,
    "thyme.loop": BOTTOM,
    "thyme.fastpath": BOTTOM | {"thyme.loop"},
    "thyme.server": BOTTOM | {"thyme.protocol"},
    "thyme.split": BOTTOM | {"thyme.protocol.close_codes", "gredis"},
    "thyme.services": BOTTOM,
    "thyme.supervisor": BOTTOM,
    "thyme.loading": BOTTOM | {"thyme.loop", "thyme.fastpath", "thyme.server"},
    "thyme.cli": BOTTOM | SERVING | {"thyme.supervisor"},
    "thyme.management": BOTTOM | SERVING | {"thyme.cli", "thyme.supervisor"},
    "thyme.management.commands.runworker2": BOTTOM
    | {"thyme.loading", "thyme.loop", "thyme.management", "thyme.split", "thyme.supervisor"}
    | {"gredis"},
    "thyme.testing": BOTTOM | SERVING | {"thyme.supervisor"},
    "thyme.run": BOTTOM | {"thyme.cli", "thyme.services", "thyme.supervisor"},
    "thyme.__main__": {"thyme.cli"},
    "thyme": {"thyme.config", "thyme.loop", "thyme.server", "thyme.split"},  # its public names
    "gredis": {"gredis.channels", "gredis.drivers"},  # its public names
    "gredis.errors": set(),
    "gredis.names": {"gredis.errors"},
    "gredis.messages": {"gredis.errors"},
    "gredis.location": {"gredis.errors"},
    "gredis.carriers": {"gredis.errors", "gredis.names", "gredis.messages"},
    "gredis.router": {"gredis.errors", "gredis.names", "gredis.messages"},
    "gredis.hub": {"gredis.carriers", "gredis.errors", "gredis.names", "gredis.messages"},
    "multichat": {"chat", "thyme", "gredis"},
    "chat": set(),
}


def unit(module: str, units: set[str] | frozenset[str]) -> str:
    """The longest name among `units` that `module` is, or is inside of."""
    parts = module.split(".")
    above = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in above if name in units), "")


def wrong_imports(module: str) -> set[str]:
    """Modules of ours that `module` imports although its layer may not."""
    units = frozenset(LAYERS)
    here = unit(module, units)
    if here == "gredis" and module != "gredis":
        allowed = {"gredis"}  # the modules beside each other: no more than that no cycle is made
    elif here == "thyme" and module != "thyme":
        allowed = set()  # a new folder or module: it needs a line in the table
    else:
        allowed = LAYERS[here]
    ours = within(imports(module), set(PACKAGES)) - {module}
    return {
        name
        for name in ours
        if unit(name, units) != here and not any(f"{name}.".startswith(f"{a}.") for a in allowed)
    }


@pytest.mark.parametrize("module", modules_of(*PACKAGES))
def test_imports_point_downwards_only(module):
    assert wrong_imports(module) == set()


@pytest.mark.parametrize("module", modules_of("thyme"))
def test_only_the_split_knows_gredis(module):
    if not re.match(r"thyme\.(split\.|management\.commands\.runworker2$)", module):
        assert within(imports(module), {"gredis"}) == set()


@pytest.mark.parametrize("module", modules_of("gredis"))
def test_gredis_knows_nothing_of_thyme_or_the_chat(module):
    assert within(imports(module), {"thyme", "multichat", "chat"}) == set()


@pytest.mark.parametrize("module", modules_of("chat"))
def test_chat_knows_django_and_channels_only(module):
    allowed = {"chat", "django", "channels", "asgiref"} | sys.stdlib_module_names - {"asyncio"}
    assert {name for name in imports(module) if name.partition(".")[0] not in allowed} == set()


def test_no_modules_import_each_other_in_a_cycle():
    graph = {name: imports(name) & sources().keys() - {name} for name in sources()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imported before it is complete: {' ► '.join(error.args[1])}")


# --- code without I/O ---------------------------------------------------------------------

PURE = re.compile(
    r"thyme\.protocol(\..+)?"
    r"|thyme\.split(\.(?!drivers\b)(?!(relay|worker)\.(gevent|asyncio)$).+)?"
    r"|gredis\.(names|messages|errors|router|session|carriers(\..+)?|hub\.state)"
)
"""Everything that decides and leaves waiting to others: `protocol/` (bytes to events and back), the
split without its drivers and programs, the core of gredis and its wire formats."""

CORE = re.compile(r"gredis\.(names|messages|router|hub\.state)")

IO = {"gevent", "asyncio", "socket", "select", "selectors", "ssl", "threading", "subprocess"}
IO |= {"redis", "django", "channels", "asgiref"}


def pure_modules() -> list[str]:
    return [name for name in sources() if PURE.fullmatch(name)]


@pytest.mark.parametrize("module", pure_modules())
def test_code_without_io_imports_none_even_indirectly(module):
    assert within(closure(module), IO) == set()


def test_code_without_io_runs_in_a_process_without_gevent_and_asyncio():
    """The same, seen from outside: libraries are included, and imports that no source shows."""
    names = pure_modules()
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted({{'gevent', 'asyncio', 'redis', 'channels'}} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [name for name in sources() if CORE.fullmatch(name)])
def test_the_core_of_gredis_knows_no_clock(module):
    assert within(closure(module), {"time", "datetime"}) == set()


def test_the_server_itself_does_not_import_asyncio():
    reached = closure("thyme.server.server")
    assert "thyme.server.connection" in reached
    assert within(reached, {"asyncio", "asgiref"}) == set()


# --- one way to do each thing -------------------------------------------------------------

IMPORT_IN_FUNCTIONS = {
    "thyme.loading": "where the way of running an application is chosen",
    "thyme.cli.main": "a program: what a plain server does not need is not loaded",
    "thyme.run": "a program: it asks for Redis or Postgres only if it is to use them",
    "thyme.testing": "a program: it patches its process before it imports the rest",
    "gredis": "public names, imported when asked for: only the channel layer needs Channels",
    "gredis.drivers": "where the driver is chosen: that of the running loop",
    "gredis.channels.encryption": "cryptography is optional",
    "thyme.management.commands.runserver": "a program: Django imports every command",
    "thyme.management.commands.runworker2": "a program, for gevent or for plain asyncio",
    "gredis.channels.layer": "only /metrics needs the figures, and the driver that reads them",
}


@pytest.mark.parametrize("module", modules_of(*PACKAGES))
def test_imports_inside_functions_have_a_reason(module):
    inside = imports(module) - imports(module, in_functions=False)
    assert not inside or module in IMPORT_IN_FUNCTIONS


def test_each_exception_for_imports_inside_functions_is_needed():
    unused = {m for m in IMPORT_IN_FUNCTIONS if imports(m) == imports(m, in_functions=False)}
    assert unused == set()


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


@pytest.mark.parametrize("module", modules_of("thyme", "gredis"))
def test_no_part_asks_a_bound_method_for_its_object_by_name(module):
    """The parts meet at seams that have names: `Transport` and `Application`."""
    constants = (node for node in ast.walk(tree(module)) if isinstance(node, ast.Constant))
    assert "__self__" not in {node.value for node in constants}


RIDDLES = re.compile(r"\s*(What|Who|Whom|Whoever|Whether|How|Somebody|Nobody)\b")
"""A docstring states what a function does or returns, and names the actor."""


def docstrings(module: str) -> Iterator[str]:
    """Those of modules, classes and functions, and those below a name."""
    for node in ast.walk(tree(module)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


@pytest.mark.parametrize("module", modules_of(*PACKAGES))
def test_docstrings_say_what_is_done_or_returned(module):
    assert [text.splitlines()[0] for text in docstrings(module) if RIDDLES.match(text)] == []


TESTED_ELSEWHERE = {
    "thyme.asgi": "tests/thyme/test_loading.py",
    "thyme.config": "tests/thyme/cli/test_options.py",
    "thyme.errors": "tests/thyme/test_loading.py",
    "thyme.protocol.http": "tests/thyme/protocol/test_http11.py",
}
"""Modules without a test file of their own name, and the file that tests them."""


def own_test(module: str) -> Path:
    *folders, name = module.split(".")
    return ROOT.joinpath("tests", *folders, f"test_{name.strip('_')}.py")


def needs_tests(module: str) -> bool:
    return sources()[module].name != "__init__.py"


@pytest.mark.parametrize("module", list(filter(needs_tests, modules_of("thyme", "gredis"))))
def test_each_module_has_a_test_file(module):
    elsewhere = TESTED_ELSEWHERE.get(module)
    assert (ROOT / elsewhere).exists() if elsewhere else own_test(module).exists()


def test_no_module_that_has_a_test_file_is_listed_as_tested_elsewhere():
    assert {name for name in TESTED_ELSEWHERE if own_test(name).exists()} == set()
    assert TESTED_ELSEWHERE.keys() <= sources().keys()


FILES_PER_FOLDER = 14
"""Beside `__init__.py`."""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_can_be_read_at_a_glance(package):
    folders = {path.parent for path in sources().values()}
    counts = {str(f.relative_to(ROOT)): len(list(f.glob("[!_]*.py"))) for f in folders}
    crowded = {f: n for f, n in counts.items() if n > FILES_PER_FOLDER and f.startswith(package)}
    assert crowded == {}


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
