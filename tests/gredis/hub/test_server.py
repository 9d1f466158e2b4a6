"""The hub's sockets, in a process of its own."""

import gevent
import gevent.socket

from gredis.drivers.gevent import GeventCrossbar
from tests.contract.hubs import running_hub
from tests.gredis.drivers.test_gevent import DEADLINE


def test_noise_on_a_hubs_port_does_no_harm():
    with running_hub() as hub, gevent.Timeout(DEADLINE):
        for noise in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0\0\0\1\xc0",
            b"\0\0\0\2\x91\1",
            b"\0\0\0\1\xc1",
        ):
            with gevent.socket.create_connection(("127.0.0.1", hub.port)) as loud:
                loud.sendall(noise)
                assert loud.recv(100) == b""
        one = GeventCrossbar(hub.url)
        assert one.multicast("room", "x") == (0, 0)
        one.close()
