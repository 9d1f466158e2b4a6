"""X-Forwarded-*: believed from those that are named, as far as they are named."""

from __future__ import annotations

import pytest

from tests.thyme.serving import HTTPPeer, body, serving, start
from thyme.asgi import Receive, Scope, Send
from thyme.protocol.scope import ConnectionInfo
from thyme.server.proxies import Proxies

BROWSER, PROXY, STRANGER = "203.0.113.7", "10.0.0.1", "192.0.2.9"


def seen(trusted: str, peer: str | None, *values: str, proto: str = "") -> ConnectionInfo:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in values]
    if proto:
        headers.append((b"x-forwarded-proto", proto.encode()))
    info = ConnectionInfo((peer, 5000) if peer else None, ("10.0.0.2", 80))
    return Proxies(trusted.split()).resolve(info, headers)


def test_a_trusted_proxy_tells_the_client_and_the_scheme() -> None:
    info = seen(PROXY, PROXY, BROWSER, proto="https")
    assert (info.client, info.secure) == ((BROWSER, 0), True)


def test_nobody_else_does() -> None:
    info = seen(PROXY, STRANGER, BROWSER, proto="https")
    assert (info.client, info.secure) == ((STRANGER, 5000), False)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([f"1.1.1.1, {BROWSER}"], BROWSER),  # what the browser claims is not believed
        ([f"{BROWSER}, 10.0.0.5"], BROWSER),  # two proxies of ours
        ([BROWSER, "10.0.0.5"], BROWSER),  # in two fields
        (["10.0.0.6, 10.0.0.5"], "10.0.0.6"),  # somebody inside
        ([f"{BROWSER}:1234"], BROWSER),
        (["[2001:db8::1]:80"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        ([f"::ffff:{BROWSER}"], BROWSER),
        ([f"{BROWSER}, nonsense, 10.0.0.5"], "10.0.0.5"),
    ],
)
def test_the_chain_is_read_from_its_end(values: list[str], client: str) -> None:
    assert seen("10.0.0.0/8", PROXY, *values).client == (client, 0)


@pytest.mark.parametrize("values", [[], [""], ["\xff\xfe"], ["unknown"], ["_hidden"]])
def test_without_an_address_the_peer_stays(values: list[str]) -> None:
    assert seen(PROXY, PROXY, *values).client == (PROXY, 5000)


def test_unix_sockets_are_trusted_by_their_own_name() -> None:
    assert seen("unix", None, BROWSER).client == (BROWSER, 0)
    assert seen(PROXY, None, BROWSER).client is None


def test_an_unknown_scheme_changes_nothing() -> None:
    assert seen(PROXY, PROXY, BROWSER, proto="gopher").secure is False


def test_what_is_no_address_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no_address"):
        Proxies(["no_address"])


@pytest.mark.parametrize(("trusted", "answer"), [((), b"127.0.0.1"), (("127.0.0.1",), b"1.2.3.4")])
def test_on_the_wire(trusted: tuple[str, ...], answer: bytes) -> None:
    def application(scope: Scope, receive: Receive, send: Send) -> None:
        send(start())
        send(body(scope["client"][0].encode()))

    with serving(application, proxies=trusted) as server, HTTPPeer(server) as peer:
        peer.ask(x_forwarded_for="1.2.3.4")
        assert peer.answer() == (200, answer)
