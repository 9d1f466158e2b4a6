"""One tree of errors, printed at the top of its module; the built-in kinds that callers rely on."""

import builtins
import re

import pytest

from thyme import errors


def tree() -> dict[str, str | None]:
    """Return the name of each error of the printed tree, with the built-in one in parentheses."""
    lines = re.findall(r"[├└]── (\w+) *(?:\((\w+)\))?", errors.__doc__ or "")
    return {name: builtin or None for name, builtin in lines}


def defined() -> dict[str, type]:
    found = vars(errors).values()
    return {each.__name__: each for each in found if isinstance(each, type)}


def test_the_tree_shows_every_error() -> None:
    assert tree().keys() == defined().keys() - {"ThymeError"}
    assert all(issubclass(each, errors.ThymeError) for each in defined().values())


@pytest.mark.parametrize("name", [name for name, builtin in tree().items() if builtin])
def test_an_error_is_also_the_built_in_one_that_the_tree_names(name) -> None:
    assert issubclass(defined()[name], getattr(builtins, tree()[name]))


def test_disconnected_is_the_oserror_that_asgi_asks_for() -> None:
    assert issubclass(errors.Disconnected, OSError)
    assert issubclass(errors.TooSlow, errors.Disconnected)
