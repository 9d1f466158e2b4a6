"""The rules for the head of an HTTP/1.1 request that llhttp does not check. No I/O, no state.

Each function checks one thing: Host, the form of the target, transfer codings, expectations,
versions, sizes. `protocol/http11.py` calls them and decides when; an unacceptable head is raised as
`Refused`, whose `refusal` is the response to send. The grammar itself is llhttp's.

Sources: RFC 9110, RFC 9112, RFC 3986.
Read next: `protocol/head_cache.py`, which saves most heads these checks.
"""

from __future__ import annotations

import re
from functools import lru_cache

from thyme.config import Config
from thyme.protocol.http import Header, Refusal

OWS = b" \t"  # RFC 9110 5.6.3, optional white space
FIELD_FRAME_BYTES = len(b": \r\n")

HOSTS_REMEMBERED = 1024
"""Distinct Host values whose check is cached; a site has a handful."""

# RFC 9112 3.2, RFC 3986 3.2.2: uri-host [ ":" port ]; may be empty.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*)(?::[0-9]*)?")
# RFC 9112 3.2.2: absolute-form = absolute-URI, of the two schemes a server may see.
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE | re.DOTALL)


class Refused(Exception):
    """The request is unacceptable. `protocol/http11.py` turns `refusal` into an event."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(status, reason)


def check_size(target: bytes, headers: list[Header], config: Config) -> None:
    """Raise `Refused` for a head with too many bytes or fields."""
    size = len(target) + sum(len(name) + len(value) + FIELD_FRAME_BYTES for name, value in headers)
    if len(headers) > config.header_fields or size > config.head_bytes:
        raise head_too_large(config)


def head_too_large(config: Config) -> Refused:
    """Return the `Refused` for an oversized head."""
    # RFC 6585 5: 431 Request Header Fields Too Large.
    return Refused(
        431,
        f"the head exceeds {config.head_bytes} bytes or {config.header_fields} header fields",
    )


def body_too_large(config: Config) -> Refused:
    """Return the `Refused` for an oversized body."""
    # RFC 9110 15.5.14: 413 Content Too Large.
    return Refused(413, f"the request body exceeds {config.body_bytes} bytes")


def check_version(version: str, method: str) -> None:
    """Raise `Refused` for an unsupported version, or for CONNECT."""
    if version != "1.1" and version != "1.0":
        # RFC 9110 15.6.6: 505 HTTP Version Not Supported.
        raise Refused(505, f"HTTP version {version} not supported; use HTTP/1.1")
    if method == "CONNECT":
        # RFC 9110 9.3.6: "An origin server MAY accept a CONNECT request"; this one is no proxy.
        raise Refused(501, "CONNECT is not supported: this server is not a proxy")


def check_framing(version: str, fields: dict[bytes, list[bytes]], config: Config) -> None:
    """Raise `Refused` if the end of the body is ambiguous, or the body is too long.

    `fields`: the values of the fields that matter, by name.
    """
    if b"transfer-encoding" in fields:
        if version == "1.0":
            # RFC 9112 6.1: "A server or client that receives an HTTP/1.0 message containing a
            # Transfer-Encoding header field MUST treat the message as if the framing is faulty".
            raise Refused(400, "Transfer-Encoding is not allowed in an HTTP/1.0 request")
        if [coding.lower() for coding in fields[b"transfer-encoding"]] != [b"chunked"]:
            # RFC 9112 6.1: "A server that receives a request message with a transfer coding it
            # does not understand SHOULD respond with 501 (Not Implemented)."
            raise Refused(501, "unsupported transfer coding; use chunked")
    elif b"content-length" in fields and int(fields[b"content-length"][0]) > config.body_bytes:
        raise body_too_large(config)


def origin_form(target: bytes, method: str, headers: list[Header]) -> bytes:
    """Return `target` as path and query (RFC 9112 3.2.1), whatever its form was.

    Replaces the Host in `headers` by that of an absolute target. Raises `Refused` for a target that
    has none of the forms.
    """
    if b"#" in target:
        # RFC 9112 3.2: no form of a request-target has a fragment.
        raise Refused(400, "the request target must not have a fragment")
    if target == b"*" and method == "OPTIONS":
        return target  # RFC 9112 3.2.4, asterisk-form
    # RFC 9112 3.2.2: "a server MUST accept the absolute-form in requests".
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise Refused(400, "the request target is neither a path nor an http(s) URI")
    authority, rest = absolute[1], absolute[2] or b""
    if not is_host(authority):
        raise bad_host()
    for index, (name, _) in enumerate(headers):
        if name == b"host":
            # RFC 9112 3.2.2: "the origin server MUST ignore the received Host header field (if
            # any) and instead use the host information of the request-target".
            headers[index] = (name, authority)
    return rest if rest[:1] == b"/" else b"/" + rest


def check_host(version: str, hosts: list[bytes]) -> None:
    """Raise `Refused` unless there is exactly one Host, and it is valid."""
    # RFC 9112 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1
    # request message that lacks a Host header field and to any request message that contains more
    # than one Host header field line or a Host header field with an invalid field value."
    if len(hosts) == 1:
        if not is_host(hosts[0]):
            raise bad_host()
    elif hosts or version == "1.1":
        raise Refused(400, f"got {len(hosts)} Host header fields, expected one")


def bad_host() -> Refused:
    """Return the `Refused` for an invalid Host."""
    return Refused(400, "invalid Host header")


@lru_cache(HOSTS_REMEMBERED)
def is_host(value: bytes) -> bool:
    """Return True if `value` is a host, with or without a port."""
    return _HOST.fullmatch(value) is not None


def expects_continue(version: str, expectations: list[bytes]) -> bool:
    """Return True if the peer waits for 100 Continue. Raises `Refused` for other expectations."""
    # RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request
    # MUST ignore that expectation." "A server that receives an Expect field value containing a
    # member other than 100-continue MAY respond with a 417".
    if version == "1.0":
        return False
    if [expectation.lower() for expectation in expectations] != [b"100-continue"]:
        raise Refused(417, "unsupported expectation; only 100-continue is")
    return True


def is_websocket_upgrade(method: str, version: str, upgrades: list[bytes]) -> bool:
    """Return True if `upgrades`, the values of Upgrade, ask for RFC 6455 in a request that may."""
    # RFC 9110 7.8: "A server that receives an Upgrade header field in an HTTP/1.0 request MUST
    # ignore that Upgrade field." RFC 6455 4.1: "The method of the request MUST be GET".
    protocols = [protocol.strip(OWS) for protocol in b",".join(upgrades).lower().split(b",")]
    allowed = version == "1.1" and method == "GET"
    return allowed and b"websocket" in protocols
