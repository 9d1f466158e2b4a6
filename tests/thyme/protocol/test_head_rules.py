"""The rules for the head of a request that llhttp does not check. Each test names its rule."""

from __future__ import annotations

import pytest

from tests.thyme.protocol.parsing import HOST, events, refusal, request
from thyme.config import Config
from thyme.protocol.http import Refusal


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        HOST + HOST,
        b"Host: a b\r\n",
        b"Host: a/b\r\n",
        b"Host: user@a\r\n",
        b"Host: a:b\r\n",
        b"Host: [::1\r\n",
        b"Host: a, b:1, c\r\n",
    ],
)
def test_a_missing_second_or_invalid_host_is_400_rfc_9112_3_2(fields: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1\r\n" + fields + b"\r\n") == 400


@pytest.mark.parametrize("host", [b"a", b"a:80", b"127.0.0.1:1", b"[::1]:8000", b"", b"a_b.c"])
def test_hosts_that_are_good_rfc_3986_3_2_2(host: bytes) -> None:
    assert request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").headers == [(b"host", host)]


def test_http_1_0_needs_no_host() -> None:
    assert request(b"GET / HTTP/1.0\r\n\r\n").headers == []


def test_absolute_form_replaces_the_host_rfc_9112_3_2_2() -> None:
    found = request(b"GET http://real.example:80/p?q HTTP/1.1\r\nX: 1\r\n" + HOST + b"\r\n")
    assert (found.path, found.query) == (b"/p", b"q")
    assert found.headers == [(b"x", b"1"), (b"host", b"real.example:80")]


@pytest.mark.parametrize(
    ("target", "path"), [(b"http://a", b"/"), (b"https://a?q", b"/"), (b"HTTP://a/b", b"/b")]
)
def test_absolute_form_without_a_path_means_the_root_rfc_9110_4_2_3(
    target: bytes, path: bytes
) -> None:
    assert request(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n").path == path


def test_absolute_form_still_needs_one_host_field_rfc_9112_3_2() -> None:
    assert refusal(b"GET http://a/ HTTP/1.1\r\n\r\n") == 400
    assert refusal(b"GET http://a/ HTTP/1.1\r\n" + HOST + HOST + b"\r\n") == 400


def test_asterisk_form_is_for_options_rfc_9112_3_2_4() -> None:
    assert request(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n").path == b"*"
    assert refusal(b"GET * HTTP/1.1\r\n" + HOST + b"\r\n") == 400


@pytest.mark.parametrize(
    "target",
    [
        b"/a#b",
        b"a",
        b"ftp://a/",
        b"http://u@a/",
        b"http:///a",
        b"/\x00",
        b"/\xc3\xa9",
        b"/a b",
        b"",
    ],
)
def test_targets_of_no_known_form_are_400_rfc_9112_3_2(target: bytes) -> None:
    assert refusal(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n") == 400


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"xchunked", b"identity"])
def test_transfer_codings_not_understood_are_501_rfc_9112_6_1(coding: bytes) -> None:
    data = b"POST / HTTP/1.1\r\nTransfer-Encoding: " + coding + b"\r\n" + HOST + b"\r\n"
    assert refusal(data) == 501


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9"])
def test_other_major_versions_are_505_rfc_9110_15_6_6(version: bytes) -> None:
    assert refusal(b"GET / " + version + b"\r\n" + HOST + b"\r\n") == 505


def test_http_0_9_without_a_version_is_505() -> None:
    assert refusal(b"GET /\r\n\r\n") == 505


def test_connect_is_501_rfc_9110_9_3_6() -> None:
    assert refusal(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n") == 501


def test_100_continue_is_noted_rfc_9110_10_1_1() -> None:
    data = b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n" + HOST + b"\r\n"
    assert request(data).expects_continue


def test_expectations_of_http_1_0_are_ignored_rfc_9110_10_1_1() -> None:
    assert not request(b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects_continue


def test_other_expectations_are_417_rfc_9110_10_1_1() -> None:
    assert refusal(b"PUT / HTTP/1.1\r\nExpect: cake\r\n" + HOST + b"\r\n") == 417


def test_a_long_head_is_431_rfc_6585_5() -> None:
    field = b"X: " + b"a" * 200 + b"\r\n"
    assert refusal(b"GET / HTTP/1.1\r\n" + field + HOST + b"\r\n", Config(head_bytes=200)) == 431


def test_many_fields_are_431_rfc_6585_5() -> None:
    assert refusal(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 100 + HOST + b"\r\n") == 431


def test_an_announced_body_over_the_limit_is_413_before_the_application_is_asked() -> None:
    data = b"POST / HTTP/1.1\r\nContent-Length: 11\r\n" + HOST + b"\r\n"
    assert [type(event) for event in events(data, config=Config(body_bytes=10))] == [Refusal]
    assert refusal(data, Config(body_bytes=10)) == 413
