"""Socket options and TLS contexts."""

import socket
import ssl

from gredis.drivers.sockets import KEEPALIVE, enable_keepalive, tls_context
from gredis.location import locate


def test_keepalive_is_on_with_our_intervals():
    with socket.socket() as connected:
        enable_keepalive(connected)
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        assert idle == KEEPALIVE["TCP_KEEPIDLE"]


def test_certificates_are_checked_unless_the_url_says_otherwise():
    assert tls_context(locate("redis://host"), ssl.SSLContext) is None
    checked = tls_context(locate("rediss://host"), ssl.SSLContext)
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)
    unchecked = tls_context(locate("rediss://host?ssl_cert_reqs=none"), ssl.SSLContext)
    assert (unchecked.verify_mode, unchecked.check_hostname) == (ssl.CERT_NONE, False)
    sentinel = locate("sentinel://a/ours?tls=1&ssl_cert_reqs=none").with_address("c", 2)
    assert tls_context(sentinel, ssl.SSLContext).verify_mode is ssl.CERT_NONE
