"""Flow control over the relay: memory stays flat, and who is slow holds up nobody else."""

from __future__ import annotations

import http.client
import os
from contextlib import closing

import psutil
import pytest

from tests.system.children import DEADLINE

MEGABYTES = int(os.environ.get("FLOW_MEGABYTES", "100"))  # 1024 by `make soak`
GROWTH = 40 * 1024 * 1024  # bytes; buffers of sockets, Redis's and the allocator's included
PIECE = bytes(1024 * 1024)


def memory(child) -> int:
    return psutil.Process(child.pid).memory_info().rss


class Watch:
    """The most memory that some processes have had since this was made, above what they had."""

    def __init__(self, *children) -> None:
        self.children = children
        self.before = [memory(child) for child in children]
        self.most = 0

    def look(self) -> None:
        for child, before in zip(self.children, self.before, strict=True):
            self.most = max(self.most, memory(child) - before)


def test_a_large_upload_passes_with_flat_memory(site):
    site.serve()
    watch = Watch(site.work(), site.server)
    with closing(http.client.HTTPConnection(*site.address, timeout=DEADLINE)) as client:
        client.putrequest("POST", "/upload")
        client.putheader("content-length", str(MEGABYTES * len(PIECE)))
        client.endheaders()
        for number in range(MEGABYTES):
            client.send(PIECE)
            if number % 16 == 0:
                watch.look()
        response = client.getresponse()
        assert int(response.read()) == MEGABYTES * len(PIECE)
    assert watch.most < GROWTH


def test_a_large_download_passes_with_flat_memory_also_to_a_slow_reader(site):
    site.serve()
    watch = Watch(site.work(), site.server)
    with closing(http.client.HTTPConnection(*site.address, timeout=DEADLINE)) as client:
        client.request("GET", f"/download?{MEGABYTES * len(PIECE)}")
        response, size = client.getresponse(), 0
        while piece := response.read(len(PIECE)):
            size += len(piece)
            watch.look()
        assert size == MEGABYTES * len(PIECE)
    assert watch.most < GROWTH


@pytest.mark.parametrize("kind", ["flood", "stall"])
def test_one_slow_browser_or_consumer_holds_up_nobody_else(site, kind):
    """A browser that does not read 10 MB; a consumer that does not take its lines."""
    site.serve()
    watch = Watch(site.work(), site.server)
    with site.socket("/plain") as slow, site.socket("/plain") as quick:
        slow.send(kind)
        if kind == "stall":
            slow.settimeout(0.5)
            with pytest.raises(TimeoutError):  # the server has stopped reading
                slow.sock.sendall(frame(b"x" * 60_000) * 1000)
        for number in range(50):
            quick.send(str(number))
            assert quick.recv() == str(number)
            watch.look()
        slow.shutdown()
    assert watch.most < GROWTH


def frame(payload: bytes) -> bytes:
    """A masked text frame (RFC 6455 5.2), with a mask of zeros."""
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload
