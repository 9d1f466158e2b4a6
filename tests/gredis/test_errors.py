"""The errors form one tree, which is printed at the top of their module."""

import re

import pytest

from gredis import errors

ERRORS = [found for found in vars(errors).values() if isinstance(found, type)]


def test_the_tree_in_the_docstring_is_complete():
    printed = re.findall(r"(?m)^(?:├── |└── )?([A-Z]\w+)\b(?= |$)", errors.__doc__)
    assert printed[1:] == [found.__name__ for found in ERRORS]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_can_be_caught_as_one_of_gredis(error):
    assert issubclass(error, errors.GredisError)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.BadName, TypeError),
        (errors.MessageTooLarge, ValueError),
        (errors.Unreachable, ConnectionError),
    ],
)
def test_errors_that_python_has_a_name_for_can_be_caught_by_it(error, builtin):
    assert issubclass(error, builtin)
    assert f"{error.__name__} " in errors.__doc__
    assert f"(also a {builtin.__name__})" in errors.__doc__
