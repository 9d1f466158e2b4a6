"""The public names of gredis, and what importing them costs."""

import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files

import pytest

import gredis


def test_all_public_names_can_be_imported():
    assert sorted(gredis.__all__) == ["GredisChannelLayer", "__version__", "connect"]
    for name in gredis.__all__:
        assert getattr(gredis, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = gredis.other


def test_the_version_is_that_of_the_distribution():
    assert gredis.__version__ == version("thyme")


def test_the_package_is_typed():
    assert files("gredis").joinpath("py.typed").is_file()


LIGHT = """
import sys
import gredis
import gredis.client, gredis.mailbox, gredis.session, gredis.router, gredis.hub.state
assert "gevent" not in sys.modules and "channels" not in sys.modules
import asyncio
async def main():
    crossbar = gredis.connect("unix:///nowhere")
    assert type(crossbar).__name__ == "AsyncioCrossbar"
asyncio.run(main())
layer = gredis.GredisChannelLayer("unix:///nowhere")
assert "gevent" not in sys.modules
"""


def test_nothing_imports_gevent_on_plain_asyncio():
    command = [sys.executable, "-W", "error", "-c", LIGHT]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stderr == ""
