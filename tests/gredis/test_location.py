"""Locations, from URLs; nothing is opened."""

import pytest

from gredis.errors import GredisError
from gredis.location import locate, redact_url


def test_a_location_is_read_from_its_url():
    found = locate("redis://ann:s%20e@host:7000/5")
    assert (found.host, found.port, found.database) == ("host", 7000, 5)
    assert (found.username, found.password, found.tls) == ("ann", "s e", None)
    assert locate("unix:///tmp/r.sock?db=2").path == "/tmp/r.sock"
    assert locate("redis://host?client_name=me").client_name == "me"
    assert locate("tcp://host").port == 6380
    sentinels = locate("sentinel://:pw@a:1,b/ours/4?tls=1&ssl_cert_reqs=none")
    assert sentinels.sentinels == (("a", 1), ("b", 26379))
    assert (sentinels.master, sentinels.database, sentinels.password) == ("ours", 4, "pw")
    moved = sentinels.with_address("c", 2)
    assert (moved.scheme, moved.host, moved.port, moved.sentinels) == ("redis", "c", 2, ())
    assert moved.tls == {"ssl_cert_reqs": "none"}


@pytest.mark.parametrize("url", ["", "http://host", "sentinel://host", "host:6379"])
def test_an_invalid_url_is_refused(url):
    with pytest.raises(GredisError, match="expected"):
        locate(url)


def test_a_location_is_shown_without_its_password():
    assert "sesame" not in locate("redis://ann:sesame@host").display_url
    assert redact_url("redis://ann:sesame@host:1/2") == "redis://…@host:1/2"
    assert redact_url("unix:///tmp/r.sock") == "unix:///tmp/r.sock"
