"""Locations that need a server: several hosts, TLS and passwords, sentinels."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from gredis import GredisChannelLayer
from gredis.errors import GredisError, RedisRefused
from gredis.messages import unpack
from tests.conftest import needs, running_redis
from tests.contract.conftest import CROSSBARS, DEADLINE

DRIVERS = pytest.mark.parametrize("kind", [("gevent", "none"), ("asyncio", "none")], ids="-".join)
Start = Callable[..., int]


@pytest.fixture
def server() -> None:
    """Tests here start their own."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts redis-servers on free ports of this machine, with options; returns the port."""
    running: list[subprocess.Popen[bytes]] = []

    def start_one(*options: str, tls: bool = False) -> int:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ports = ["--port", "0", "--tls-port", str(port)] if tls else ["--port", str(port)]
        command = [needs("redis-server"), *options, *ports, "--save", ""]
        running.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL))
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return port
            except OSError:
                time.sleep(0.01)
        raise RuntimeError("redis-server did not start")

    yield start_one
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def certificate() -> Iterator[tuple[Path, Path]]:
    """A certificate for localhost that signs itself, and its key."""
    folder = Path(tempfile.mkdtemp())
    made, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [needs("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", key, "-out", made, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    yield made, key
    shutil.rmtree(folder)


async def exchange(url: Any, driver: str) -> Any:
    """Send a message from one end to another."""
    one, two = CROSSBARS[driver](url), CROSSBARS[driver](url)
    try:
        got: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        address = two.router.add(
            lambda body: loop.call_soon_threadsafe(got.put_nowait, unpack(body))
        )
        two.start()
        await one.await_reply(one.unicast_soon(address, "hello"))
        return await got.get()
    finally:
        for end in (one, two):
            if (closing := end.close()) is not None:
                await closing


@DRIVERS
def test_with_several_hosts_everything_arrives_and_all_have_work(kind, run):
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running_redis(each)) for each in ("valkey", "redis", "redis")
        ]
        urls = [server.url for server in servers]
        layer = GredisChannelLayer(urls)

        async def scenario():
            channels = [await layer.new_channel() for _ in range(20)]
            for number, channel in enumerate(channels):
                await layer.group_add(f"room-{number}", channel)
                await layer.send(channel, {"type": "t", "n": number})
                await layer.group_send(f"room-{number}", {"type": "t", "n": number})
                await layer.send(f"work-{number}", {"type": "t", "n": number})
            got = []
            for number, channel in enumerate(channels):
                for name in (channel, channel, f"work-{number}"):
                    got.append((await layer.receive(name))["n"])
            groups = [len(status[2]) for status in await asyncio.gather(
                *map(layer.crossbar.await_reply, layer.crossbar.status())
            )]  # fmt: skip
            await layer.close()
            return got, groups

        got, groups = run(scenario())
        assert got == [number for number in range(20) for _ in range(3)]
        assert sum(groups) == 20
        assert min(groups) > 0
        for url in urls:
            with redis.Redis.from_url(url) as looking_in:
                assert looking_in.keys() == []


@DRIVERS
def test_the_other_hosts_work_while_one_is_away(kind, run):
    with running_redis("redis") as one, running_redis("redis") as other:
        layer = GredisChannelLayer([one.url, other.url], timeout=DEADLINE)

        async def scenario():
            crossbar = layer.crossbar
            names = {crossbar.host_index(f"room-{n}"): f"room-{n}" for n in range(20)}
            for name in names.values():
                await layer.group_send(name, {"type": "t"})
            other.kill()
            await layer.group_send(names[0], {"type": "t"})
            crossbar.timeout = 0.1  # for the one that must fail
            with pytest.raises(GredisError, match="no answer"):
                await layer.group_send(names[1], {"type": "t"})
            other.start()
            crossbar.timeout = DEADLINE
            await layer.group_send(names[1], {"type": "t"})
            await layer.close()

        run(scenario())


@DRIVERS
def test_tls_with_a_certificate_that_is_checked(kind, run, start, certificate):
    made, key = map(str, certificate)
    options = ("--tls-cert-file", made, "--tls-key-file", key, "--tls-auth-clients", "no")
    port = start(*options, tls=True)
    good = f"rediss://localhost:{port}/0?ssl_ca_certs={made}"
    assert run(exchange(good, kind[0])) == "hello"
    unchecked = f"rediss://localhost:{port}?ssl_cert_reqs=none"
    assert run(exchange(unchecked, kind[0])) == "hello"


@DRIVERS
def test_tls_with_an_untrusted_certificate_is_refused(kind, run, start, certificate):
    made, key = map(str, certificate)
    options = ("--tls-cert-file", made, "--tls-key-file", key, "--tls-auth-clients", "no")
    layer = GredisChannelLayer(f"rediss://localhost:{start(*options, tls=True)}", timeout=0.2)

    async def scenario():
        with pytest.raises(GredisError, match="no answer"):
            await layer.group_send("room", {"type": "t"})
        await layer.close()

    run(scenario())


@DRIVERS
def test_users_and_passwords_and_databases_of_the_url(kind, run, start, tmp_path, caplog):
    config = tmp_path / "redis.conf"
    config.write_text("user ann on >sesame ~gredis:* &gredis:* +@all\nuser default off\n")
    port = start(str(config))
    assert run(exchange(f"redis://ann:sesame@localhost:{port}/3", kind[0])) == "hello"
    layer = GredisChannelLayer(f"redis://ann:wrong@localhost:{port}")

    async def scenario():
        with pytest.raises(RedisRefused, match="WRONGPASS"):
            await layer.group_send("room", {"type": "t"})
        await asyncio.sleep(0.3)  # it tries again and again
        await layer.close()

    run(scenario())
    assert len([record for record in caplog.records if "WRONGPASS" in record.message]) == 1


@DRIVERS
def test_the_master_is_the_one_that_the_sentinels_name(kind, run, start, tmp_path):
    port = start()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor ours 127.0.0.1 {port} 1\n")
    sentinel = start(str(config), "--sentinel")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"sentinel://localhost:{nobody.getsockname()[1]},localhost:{sentinel}/ours"
        assert run(exchange(url, kind[0])) == "hello"


@DRIVERS
def test_everything_continues_after_a_failover(kind, run, start, tmp_path):
    old = start()
    new = start("--replicaof", f"127.0.0.1 {old}")
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor ours 127.0.0.1 {old} 1\n")
    sentinel = start(str(config), "--sentinel")
    layer = GredisChannelLayer(f"sentinel://localhost:{sentinel}/ours")

    async def scenario():
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        with redis.Redis(port=new) as replica, redis.Redis(port=sentinel) as asked:
            while replica.info("replication")["master_link_status"] != "up":
                await asyncio.sleep(0.01)
            failed_over = False
            while not failed_over:
                try:
                    asked.execute_command("SENTINEL", "FAILOVER", "ours")
                    failed_over = True
                except redis.ResponseError:  # it does not know the replica yet
                    await asyncio.sleep(0.1)
            while replica.info("replication")["role"] != "master":
                await asyncio.sleep(0.01)
        for number in range(3):
            await layer.group_send("room", {"type": "t", "n": number})
        got = [(await layer.receive(channel))["n"] for _ in range(3)]
        with redis.Redis(port=new) as replica:
            assert replica.exists("gredis:known")
        await layer.close()
        return got

    assert run(scenario()) == [0, 1, 2]


@DRIVERS
def test_flushed_scripts_are_loaded_again(kind, run):
    with running_redis("redis") as server, redis.Redis.from_url(server.url) as looking_in:
        layer = GredisChannelLayer(server.url)

        async def scenario():
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            looking_in.script_flush()
            await layer.group_send("room", {"type": "t"})
            got = await layer.receive(channel)
            await layer.close()
            return got

        assert run(scenario()) == {"type": "t"}
