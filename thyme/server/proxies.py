"""Whom a reverse proxy speaks for: X-Forwarded-For and X-Forwarded-Proto, from trusted peers only.

Anybody can send these fields, so they are believed when the connection comes from an address that
the configuration names, and of a chain only as far as its links are named, too. From everybody
else they stay what they are: headers.

Source: https://en.wikipedia.org/wiki/X-Forwarded-For; RFC 7239 5.2 and 7.4 for the reasoning
("any information in the field cannot be trusted" beyond the known proxies).
Taught in notebooks/14_under_load_and_shipping.ipynb.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from thyme.protocol.head_rules import Header
from thyme.protocol.scope import Place

UNIX = "unix"
"""Trusts whoever connects through a unix socket: its file's permissions say who that may be."""

UNKNOWN_PORT = 0  # ASGI: "client: a two-item iterable of [host, port]"; a proxy does not tell it

_Address = IPv4Address | IPv6Address


class Proxies:
    """The trusted ones: addresses, networks ("10.0.0.0/8"), "unix". Raises `ValueError`."""

    def __init__(self, names: Iterable[str]) -> None:
        names = frozenset(names)
        self._unix = UNIX in names
        self._networks: list[IPv4Network | IPv6Network] = [
            ip_network(name) for name in names - {UNIX}
        ]

    def seen_through(self, place: Place, headers: list[Header]) -> Place:
        """`place` as the browser has it, when the peer is a trusted proxy that says so."""
        peer = place.client
        if not (self._unix if peer is None else self._trusts(_address(peer[0]))):
            return place
        client = self._client(_listed(headers, b"x-forwarded-for"))
        if client is not None:
            place = replace(place, client=(client, UNKNOWN_PORT))
        schemes = _listed(headers, b"x-forwarded-proto")
        if schemes and schemes[-1].lower() in ("http", "https"):
            place = replace(place, secure=schemes[-1].lower() == "https")
        return place

    def _client(self, chain: list[str]) -> str | None:
        """The last of the chain that is no proxy of ours: what it says of those before is hearsay.

        Each proxy appends the address that it was called from.
        """
        client = None
        for text in reversed(chain):
            address = _address(text)
            if address is None:
                break
            client = str(address)
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _listed(headers: list[Header], wanted: bytes) -> list[str]:
    values = b",".join(value for name, value in headers if name == wanted).decode("latin-1")
    return [item.strip(' \t"') for item in values.split(",") if item.strip()]


def _address(text: str) -> _Address | None:
    """An address as proxies write it: 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1]:80."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 peer of a socket that takes both
    return mapped or address
