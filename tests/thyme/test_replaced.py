"""The list of foreign names that thyme depends on: complete, and checked at start-up."""

import re
from pathlib import Path

import pytest

import thyme
from tests.thyme.patched import run_patched
from thyme import replaced
from thyme.errors import Incompatible
from thyme.replaced import NAMES, TRIED, Name, check

THYME = Path(thyme.__file__).parent


def test_all_names_exist_in_the_installed_versions():
    check(*TRIED)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_each_name_is_used_where_the_list_says(name):
    last = re.split(r"[:.]", name.path)[-1]
    assert last in (THYME / name.where).read_text()
    assert name.package in TRIED


@pytest.mark.parametrize("path", ["channels.consumer:Gone.__call__", "channels.gone:x"])
def test_a_name_that_has_disappeared_is_an_error_with_the_remedy(monkeypatch, path):
    gone = Name("channels", path, "replaced", "fastpath/patches.py", "for a test")
    monkeypatch.setattr(replaced, "NAMES", (gone,))
    check.cache_clear()
    try:
        with pytest.raises(Incompatible) as caught:
            check("channels")
    finally:
        check.cache_clear()
    message = str(caught.value)
    assert path in message
    assert "fastpath/patches.py" in message
    assert f"from {TRIED['channels'][0]} to {TRIED['channels'][1]}" in message


def test_install_checks_the_names():
    program = """
        from thyme import replaced
        replaced.NAMES = (replaced.Name("asyncio", "asyncio:gone", "used", "x.py", "a test"),)
        import thyme.loop
        try:
            thyme.loop.install()
        except Exception as error:
            print(type(error).__name__)
    """
    assert run_patched(program, install=False) == "Incompatible"


PRIVATE = re.compile(
    r"\b(?:events|unix_events|asyncio\.\w+|selectors|gevent\.\w+|gevent|channels\.\w+|asgiref\.\w+)"
    r"\.(_[a-z]\w+)"
)


def test_no_private_name_of_another_package_is_missing_from_the_list():
    listed = {part for name in NAMES for part in re.split(r"[:.]", name.path)}
    used = {
        found
        for path in THYME.rglob("*.py")
        if path.name != "replaced.py"
        for found in PRIVATE.findall(path.read_text())
    }
    assert used - listed == set()
    assert used
