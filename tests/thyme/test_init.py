"""The public names of the package, and what importing them imports."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import thyme
from thyme.config import Config
from thyme.loop import install
from thyme.server.server import Server
from thyme.split.flow_control import Queue, Window
from thyme.split.relay.asyncio import AsgiRelay
from thyme.split.relay.gevent import Relay
from thyme.split.worker.gevent import Worker

ROOT = Path(__file__).parents[2]

PUBLIC = {
    "AsgiRelay": AsgiRelay,
    "Config": Config,
    "Queue": Queue,
    "Relay": Relay,
    "Server": Server,
    "Window": Window,
    "Worker": Worker,
    "install_loop": install,
}


def imported_by(statement: str) -> set[str]:
    """Return the top-level packages in a new process after `statement`."""
    program = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", program]
    return set(
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_public_names_are_these() -> None:
    assert set(thyme.__all__) == {*PUBLIC, "__version__"}
    assert set(thyme.__all__) <= set(dir(thyme))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_the_object_of_its_module(name: str) -> None:
    assert getattr(thyme, name) is PUBLIC[name]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'thyme' has no attribute 'Sever'"):
        thyme.Sever  # type: ignore[attr-defined]  # noqa: B018


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from thyme import *", names)
    assert set(thyme.__all__) <= names.keys()


@pytest.mark.parametrize(
    "statement",
    ["import thyme", "from thyme import Config", "from thyme import AsgiRelay, Queue, Window"],
)
def test_the_package_and_the_asyncio_relay_do_not_import_gevent(statement: str) -> None:
    imported = imported_by(statement)
    assert "thyme" in imported
    assert "gevent" not in imported


def test_the_package_alone_imports_no_other_package() -> None:
    unrelated = {"asyncio", "channels", "django", "gevent", "gredis", "redis", "prometheus_client"}
    assert imported_by("import thyme") & unrelated == set()


def test_the_server_does_not_import_asyncio() -> None:
    imported = imported_by("from thyme import Server")
    assert "gevent" in imported
    assert "asyncio" not in imported


def test_the_version_is_defined_once() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in settings["project"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "thyme.__version__"}
    assert thyme.__version__.count(".") == 2


@pytest.mark.parametrize("package", ["thyme", "gredis"])
def test_type_checkers_may_read_the_annotations(package: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert (ROOT / package / "py.typed").is_file()
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"][package]
