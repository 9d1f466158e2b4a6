"""Loading an application, and running an ASGI 3 one in greenlets."""

from __future__ import annotations

import asyncio
import sys

import gevent
import pytest
from asgiref.sync import sync_to_async

from tests.thyme.peer import CONNECT, HTTP, REQUEST, WEBSOCKET, Peer
from tests.thyme.serving import HTTPPeer, body, eventually, serving, start
from tests.thyme.serving import Peer as ServedPeer
from thyme.errors import ApplicationNotFound, Disconnected
from thyme.loading import is_asgi3, load
from thyme.loop.bridge import adapt
from thyme.loop.shared import close_shared_loop, shared_loop


@pytest.fixture(autouse=True)
def _closed_loop():
    yield
    close_shared_loop()


@pytest.fixture
def example(tmp_path, monkeypatch):
    (tmp_path / "example_app.py").write_text(
        "def esque(scope, receive, send): pass\n"
        "async def asgi3(scope, receive, send): pass\n"
        "class Router:\n"
        "    async def __call__(self, scope, receive, send): pass\n"
        "router, number = Router(), 7\n"
    )
    (tmp_path / "broken_app.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("example_app", None)


def test_an_ordinary_function_is_taken_as_it_is(example):
    application = load("example_app:esque")
    assert application.function is sys.modules["example_app"].esque


@pytest.mark.parametrize("name", ["asgi3", "router"])
def test_an_asgi_3_application_is_adapted(example, name):
    application = load(f"example_app:{name}")
    assert not is_asgi3(application)
    Peer(application, HTTP).end()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("example_app", "expected MODULE:ATTRIBUTE"),
        ("example_app:", "expected MODULE:ATTRIBUTE"),
        ("no_such_app:x", "no module 'no_such_app'"),
        ("example_app:nothing", "no attribute 'nothing'"),
        ("example_app:number", "expected a callable"),
    ],
)
def test_what_names_no_application_is_refused_with_what_to_do(example, spec, said):
    with pytest.raises(ApplicationNotFound, match=said):
        load(spec)


def test_an_error_inside_the_module_is_not_hidden(example):
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        load("broken_app:x")


def test_events_cross_both_ways_in_order():
    async def echo(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})

    peer = Peer(adapt(echo), WEBSOCKET, CONNECT)
    assert peer.next() == {"type": "websocket.accept"}
    for number in range(10):
        peer.say(str(number))
    assert [peer.next()["text"] for _ in range(10)] == [str(number) for number in range(10)]
    peer.leave()
    assert peer.end() == []


def test_a_cancelled_receive_loses_no_event():
    async def impatient(scope, receive, send):
        await receive()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0.01)
        await send({"type": "ready"})
        for _ in range(2):
            await send(await receive())

    peer = Peer(adapt(impatient), WEBSOCKET, CONNECT)
    peer.next()
    peer.say("one")
    peer.say("two")
    assert [event["text"] for event in peer.end() or (peer.next(), peer.next())] == ["one", "two"]


def test_a_slow_peer_blocks_only_its_own_send():
    gate, order = gevent.event.Event(), []

    def slow_send(event):
        gate.wait()
        order.append("slow")

    async def one_event(scope, receive, send):
        await send({"type": "x"})

    slow = gevent.spawn(adapt(one_event), dict(HTTP), lambda: REQUEST, slow_send)
    quick = gevent.spawn(adapt(one_event), dict(HTTP), lambda: REQUEST, order.append)
    quick.get(timeout=30)
    gate.set()
    slow.get(timeout=30)
    assert order == [{"type": "x"}, "slow"]


def test_an_error_of_the_application_reaches_the_server():
    async def fails(scope, receive, send):
        raise KeyError("x")

    with pytest.raises(KeyError):
        Peer(adapt(fails), HTTP).end()


def test_send_raises_an_os_error_once_the_peer_has_gone():
    errors = []

    async def talks(scope, receive, send):
        try:
            await send({"type": "x"})
        except OSError as error:
            errors.append(type(error))

    peer = Peer(adapt(talks), HTTP)
    peer.gone = True
    peer.end()
    assert errors == [Disconnected]


def test_a_connection_that_the_server_ends_is_cancelled():
    ended = []

    async def waits(scope, receive, send):
        try:
            await send({"type": "ready"})
            await receive()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    peer = Peer(adapt(waits), HTTP)
    peer.next()
    peer.greenlet.kill()
    eventually(lambda: ended)
    assert ended == ["cancelled"]


def test_a_connection_that_the_server_ends_ends_also_while_a_task_of_its_application_blocks():
    """The greenlet of the connection has lent itself to that task, and is killed within it."""
    ended, blocking = [], gevent.event.Event()

    async def reader(receive):
        await receive()
        blocking.set()
        gevent.sleep(60)

    async def waits(scope, receive, send):
        tasks.append(asyncio.create_task(reader(receive)))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    tasks = []
    peer = Peer(adapt(waits), WEBSOCKET)
    gevent.sleep(0.01)  # it receives
    peer.say("hello")
    assert blocking.wait(30)
    peer.greenlet.kill(timeout=30)
    assert peer.greenlet.dead
    eventually(lambda: ended)
    assert isinstance(tasks[0].exception(), gevent.GreenletExit)


def test_an_application_may_end_while_it_still_receives():
    """As Django's handler does, which listens for the disconnect meanwhile."""

    async def listens(scope, receive, send):
        asyncio.get_running_loop().create_task(receive())
        await asyncio.sleep(0.001)
        await send({"type": "x"})

    peer = Peer(adapt(listens), HTTP)
    assert peer.end() == [{"type": "x"}]


def receives_for_ever(cancelling):
    """An ASGI 3 application that still receives when its response is complete."""
    tasks = []

    async def application(scope, receive, send):
        await receive()
        tasks.append(asyncio.create_task(receive()))
        await asyncio.sleep(0.001)
        await send(start())
        await send(body(b"ok"))
        if cancelling:
            tasks[-1].cancel()

    return application


@pytest.mark.parametrize("cancelling", [False, True], ids=["left", "cancelled"])
def test_an_application_that_still_receives_at_its_end_does_not_end_the_connection(cancelling):
    with serving(adapt(receives_for_ever(cancelling))) as server, HTTPPeer(server) as peer:
        for _ in range(20):
            peer.ask()
            assert peer.answer() == (200, b"ok")


def test_an_application_that_still_receives_at_its_end_lets_pipelined_requests_be_answered():
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with serving(adapt(receives_for_ever(cancelling=False))) as server:
        with ServedPeer(server, request * 20) as peer:
            for _ in range(20):
                assert peer.read_until(b"ok").startswith(b"HTTP/1.1 200")


def test_a_task_that_an_application_leaves_behind_does_not_end_the_next_request():
    async def leaves(scope, receive, send):
        await receive()
        await send(start())
        await send(body(b"ok"))
        tasks.append(asyncio.create_task(receive()))

    tasks = []
    with serving(adapt(leaves)) as server, HTTPPeer(server) as peer:
        for _ in range(20):
            peer.ask()
            assert peer.answer() == (200, b"ok")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
def test_an_application_may_make_tasks_eager():
    async def application(scope, receive, send):
        asyncio.get_running_loop()
        event = await receive()
        await asyncio.create_task(asyncio.sleep(0.001))
        await send(event)

    shared_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
    gevent.sleep(0)  # the loop waits
    assert Peer(adapt(application), HTTP, REQUEST).end() == [REQUEST]


def test_a_connection_that_ends_before_its_application_begins_never_begins_it():
    begun, blocking, gate = [], gevent.event.Event(), gevent.event.Event()

    async def blocks(scope, receive, send):
        blocking.set()
        gate.wait()  # the loop is held up

    async def begins(scope, receive, send):
        begun.append(1)

    holding = Peer(adapt(blocks), HTTP)
    blocking.wait()
    ended = Peer(adapt(begins), HTTP)
    gevent.sleep(0)
    ended.greenlet.kill()
    gate.set()
    holding.end()
    Peer(adapt(begins), HTTP).end()
    assert begun == [1]


def test_synchronous_code_of_a_connection_runs_in_order_in_one_greenlet():
    seen = []

    async def calls(scope, receive, send):
        for number in range(3):
            await sync_to_async(lambda n=number: seen.append((n, gevent.getcurrent())))()

    Peer(adapt(calls), HTTP).end()
    assert [number for number, _ in seen] == [0, 1, 2]
    assert len({greenlet for _, greenlet in seen}) == 1


def test_synchronous_code_of_different_connections_overlaps():
    """50 calls that all wait for each other: they end only if all run at the same time."""
    arrived, gate = [], gevent.event.Event()

    def meet():
        arrived.append(1)
        if len(arrived) == 50:
            gate.set()
        gate.wait()

    async def calls(scope, receive, send):
        await sync_to_async(meet)()

    with gevent.Timeout(30):
        for peer in [Peer(adapt(calls), HTTP) for _ in range(50)]:
            peer.end()
