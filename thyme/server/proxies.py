"""The client's address behind trusted reverse proxies: X-Forwarded-For and X-Forwarded-Proto.

Anyone can send these fields. So they are used only if the connection comes from an address that the
configuration names, and a chain of addresses is followed only as far as its links are named, too.
From all other peers they are headers like any others.

Source: https://en.wikipedia.org/wiki/X-Forwarded-For; RFC 7239 5.2 and 7.4 for the reasoning
("any information in the field cannot be trusted" beyond the known proxies).
Taught in notebooks/14_under_load_and_shipping.ipynb.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from thyme.protocol.http import Header
from thyme.protocol.scope import ConnectionInfo

UNIX = "unix"
"""Trusts all peers on a unix socket: its file permissions decide who can connect."""

UNKNOWN_PORT = 0  # ASGI: "client: a two-item iterable of [host, port]"; no proxy sends the port

_Address = IPv4Address | IPv6Address


class Proxies:
    """The trusted proxies: addresses, networks ("10.0.0.0/8"), "unix". Raises `ValueError`."""

    def __init__(self, names: Iterable[str]) -> None:
        names = frozenset(names)
        self._unix = UNIX in names
        self._networks: list[IPv4Network | IPv6Network] = [
            ip_network(name) for name in names - {UNIX}
        ]

    def resolve(self, info: ConnectionInfo, headers: list[Header]) -> ConnectionInfo:
        """Return `info` with the client and scheme that `headers` name, if the peer is trusted."""
        peer = info.client
        if not (self._unix if peer is None else self._trusts(_parse_address(peer[0]))):
            return info
        client = self._client_address(_list_items(headers, b"x-forwarded-for"))
        if client is not None:
            info = replace(info, client=(client, UNKNOWN_PORT))
        schemes = _list_items(headers, b"x-forwarded-proto")
        if schemes and schemes[-1].lower() in ("http", "https"):
            info = replace(info, secure=schemes[-1].lower() == "https")
        return info

    def _client_address(self, chain: list[str]) -> str | None:
        """Return the last address in `chain` that is not a trusted proxy, or None.

        Each proxy appends the address of its peer, so what precedes an untrusted address was
        written by a stranger.
        """
        client = None
        for text in reversed(chain):
            address = _parse_address(text)
            if address is None:
                break
            client = str(address)
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _list_items(headers: list[Header], wanted: bytes) -> list[str]:
    values = b",".join(value for name, value in headers if name == wanted).decode("latin-1")
    return [item.strip(' \t"') for item in values.split(",") if item.strip()]


def _parse_address(text: str) -> _Address | None:
    """Parse the forms that proxies use: 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1]:80."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 peer of a dual-stack socket
    return mapped or address
