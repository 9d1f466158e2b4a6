"""Which requests are acceptable, where llhttp leaves that to us. No I/O, no state.

Host, the target's form, transfer codings, expectations, versions, the size of a head.
`protocol/http11.py` asks; what is not acceptable is raised as `Refused`, whose `refusal` says what
to answer.

Sources: RFC 9110, RFC 9112, RFC 3986. Held by tests/thyme/protocol/test_http11.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from thyme.config import Config

Header = tuple[bytes, bytes]

OWS = b" \t"  # RFC 9110 5.6.3, optional white space
FIELD_FRAME_BYTES = len(b": \r\n")

HOSTS_REMEMBERED = 1024
"""Distinct Host values that are checked once only; a site has a handful."""

# RFC 9112 3.2, RFC 3986 3.2.2: uri-host [ ":" port ]; may be empty.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*)(?::[0-9]*)?")
# RFC 9112 3.2.2: absolute-form = absolute-URI, here of the two schemes we can be asked for.
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request we do not serve: the status to answer with, and why, for the peer to read."""

    status: int
    reason: str


class Refused(Exception):
    """Raised for what is not acceptable; `protocol/http11.py` makes an event of its `refusal`."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(status, reason)


def check_size(target: bytes, headers: list[Header], config: Config) -> None:
    """Raise `Refused` for a head with too many bytes or fields."""
    size = len(target) + sum(len(name) + len(value) + FIELD_FRAME_BYTES for name, value in headers)
    if len(headers) > config.header_fields or size > config.head_bytes:
        raise head_too_large(config)


def head_too_large(config: Config) -> Refused:
    """What to raise for it."""
    # RFC 6585 5: 431 Request Header Fields Too Large.
    return Refused(
        431, f"the head is over {config.head_bytes} bytes or {config.header_fields} fields"
    )


def body_too_large(config: Config) -> Refused:
    """What to raise for it."""
    # RFC 9110 15.5.14: 413 Content Too Large.
    return Refused(413, f"the body is over {config.body_bytes} bytes")


def check_version(version: str, method: str) -> None:
    """Raise `Refused` for a version or method that is not for us."""
    if version != "1.1" and version != "1.0":
        # RFC 9110 15.6.6: 505 HTTP Version Not Supported.
        raise Refused(505, f"HTTP/{version} is not spoken here, HTTP/1.1 is")
    if method == "CONNECT":
        # RFC 9110 9.3.6: "An origin server MAY accept a CONNECT request"; we are no proxy.
        raise Refused(501, "CONNECT is for proxies")


def check_framing(version: str, fields: dict[bytes, list[bytes]], config: Config) -> None:
    """Raise `Refused` where the end of the body is in doubt, or too far."""
    if b"transfer-encoding" in fields:
        if version == "1.0":
            # RFC 9112 6.1: "A server or client that receives an HTTP/1.0 message containing a
            # Transfer-Encoding header field MUST treat the message as if the framing is faulty".
            raise Refused(400, "HTTP/1.0 has no Transfer-Encoding")
        if [coding.lower() for coding in fields[b"transfer-encoding"]] != [b"chunked"]:
            # RFC 9112 6.1: "A server that receives a request message with a transfer coding it
            # does not understand SHOULD respond with 501 (Not Implemented)."
            raise Refused(501, "the only transfer coding understood is chunked")
    elif b"content-length" in fields and int(fields[b"content-length"][0]) > config.body_bytes:
        raise body_too_large(config)


def origin_form(target: bytes, method: str, headers: list[Header]) -> bytes:
    """`target` as path and query (RFC 9112 3.2.1), whatever its form was; puts its host right."""
    if b"#" in target:
        # RFC 9112 3.2: no form of a request-target has a fragment.
        raise Refused(400, "a target has no fragment")
    if target == b"*" and method == "OPTIONS":
        return target  # RFC 9112 3.2.4, asterisk-form
    # RFC 9112 3.2.2: "a server MUST accept the absolute-form in requests".
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise Refused(400, "the target is neither a path nor an http URI")
    authority, rest = absolute[1], absolute[2] or b""
    if not is_host(authority):
        raise bad_host()
    for place, (name, _) in enumerate(headers):
        if name == b"host":
            # RFC 9112 3.2.2: "the origin server MUST ignore the received Host header field (if
            # any) and instead use the host information of the request-target".
            headers[place] = (name, authority)
    return rest if rest[:1] == b"/" else b"/" + rest


def check_host(version: str, hosts: list[bytes]) -> None:
    """Raise `Refused` unless there is one Host, and a good one."""
    # RFC 9112 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1
    # request message that lacks a Host header field and to any request message that contains more
    # than one Host header field line or a Host header field with an invalid field value."
    if len(hosts) == 1:
        if not is_host(hosts[0]):
            raise bad_host()
    elif hosts or version == "1.1":
        raise Refused(400, f"got {len(hosts)} Host fields, expected one")


def bad_host() -> Refused:
    """What to raise for it."""
    return Refused(400, "the Host field is not a host")


@lru_cache(HOSTS_REMEMBERED)
def is_host(value: bytes) -> bool:
    """Whether `value` is a host, perhaps with a port."""
    return _HOST.fullmatch(value) is not None


def expects_continue(version: str, expectations: list[bytes]) -> bool:
    """Whether 100 Continue is to be said; raises `Refused` for other expectations."""
    # RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request
    # MUST ignore that expectation." "A server that receives an Expect field value containing a
    # member other than 100-continue MAY respond with a 417".
    if version == "1.0":
        return False
    if [expectation.lower() for expectation in expectations] != [b"100-continue"]:
        raise Refused(417, "the only expectation met is 100-continue")
    return True


def asks_for_websocket(method: str, version: str, upgrades: list[bytes]) -> bool:
    """Whether these Upgrade fields ask for RFC 6455, in a request that may."""
    # RFC 9110 7.8: "A server that receives an Upgrade header field in an HTTP/1.0 request MUST
    # ignore that Upgrade field." RFC 6455 4.1: "The method of the request MUST be GET".
    protocols = [protocol.strip(OWS) for protocol in b",".join(upgrades).lower().split(b",")]
    right = version == "1.1" and method == "GET"
    return right and b"websocket" in protocols
