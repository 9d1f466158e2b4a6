"""What can be lost, as docs/guarantees.md states it: the loss is bounded, and it is reported."""

from __future__ import annotations

import gevent

from gredis.drivers.gevent import GeventCrossbar
from tests.conftest import running_redis
from tests.thyme.peer import HTTP, REQUEST, Peer
from thyme.split.flow_control import Queue
from thyme.split.relay import gevent as relay_module
from thyme.split.relay.gevent import Relay
from thyme.split.worker.gevent import Worker


def test_a_request_that_waits_while_redis_dies_gets_503_and_is_not_repeated(monkeypatch):
    """It may have begun just before, on a worker that nobody knows any more."""
    served = []

    def application(scope, receive, send):
        served.append(scope["path"])
        send({"type": "http.response.start", "status": 200, "headers": []})
        send({"type": "http.response.body", "body": b""})

    with running_redis("valkey") as redis, gevent.Timeout(60):
        servers, workers = GeventCrossbar(redis.url), GeventCrossbar(redis.url)
        monkeypatch.setattr(relay_module, "connect", lambda url, prefix: servers)
        servers.open()
        relay = Relay(redis.url, http=Queue("http", seconds=3))
        lost = Peer(relay, HTTP | {"path": "/lost"}, REQUEST)
        while not servers.status()[0].get()[1]:  # until it waits in Redis
            gevent.sleep(0.01)
        redis.kill()
        redis.start()
        worker = Worker(application, workers, drain_seconds=0.2)
        running = gevent.spawn(worker.run)
        assert lost.next()["status"] == 503
        found = Peer(relay, HTTP | {"path": "/next"}, REQUEST)
        assert found.next()["status"] == 200
        assert served == ["/next"]
        worker.stop()
        running.get(timeout=30)
        relay.close()
