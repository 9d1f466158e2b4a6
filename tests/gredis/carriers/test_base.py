"""The interface of carriers, tried on each of them."""

import inspect

import pytest

from gredis.carriers.base import Carrier
from gredis.carriers.redis import RedisCarrier
from gredis.carriers.tcp import TcpCarrier

METHODS = {name for name in vars(Carrier) if not name.startswith("_")}


@pytest.mark.parametrize("carrier", [RedisCarrier, TcpCarrier])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_carrier_has_all_methods_with_the_same_parameters(carrier, name):
    ours = inspect.signature(getattr(carrier, name)).parameters
    assert list(ours) == list(inspect.signature(getattr(Carrier, name)).parameters)


@pytest.mark.parametrize("carrier", [RedisCarrier("me"), TcpCarrier("me")])
def test_commands_are_encoded_one_after_another(carrier):
    one, two = carrier.call("join", 1, "red"), carrier.call("leave", 2, "red")
    assert carrier.encode([one, two]) == carrier.encode([one]) + carrier.encode([two])
    assert list(carrier.decoder().feed(b"")) == []
