"""The public names of gredis."""

from __future__ import annotations

import pytest

import gredis
from gredis.channels.layer import GredisChannelLayer


def test_the_channel_layer_is_a_public_name() -> None:
    assert "GredisChannelLayer" in gredis.__all__
    assert gredis.GredisChannelLayer is GredisChannelLayer


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'gredis' has no attribute 'nothing'"):
        gredis.nothing  # noqa: B018
