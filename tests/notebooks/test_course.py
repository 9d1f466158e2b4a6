"""What the chapters share: a hub beside the cells, programs, what is left, and the figures."""

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import gevent
import pytest
from course import figures, leftovers, resting
from course.hub import Hub
from course.programs import Program
from django.utils.functional import SimpleLazyObject
from gevent.server import StreamServer
from zmq.utils.garbage import GarbageCollector


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


def test_a_hub_calls_in_a_greenlet_of_its_own_thread(hub):
    where = hub.call(lambda: (threading.get_native_id(), type(gevent.getcurrent())))
    assert where == (hub.native_id, gevent.Greenlet)
    assert threading.get_native_id() != hub.native_id


def test_a_hub_hands_on_what_is_raised(hub):
    with pytest.raises(ZeroDivisionError):
        hub.call(lambda: 1 / 0)


def test_a_server_on_a_hub_answers_while_this_thread_blocks(hub):
    def serve():
        server = StreamServer(("127.0.0.1", 0), lambda connected, _: connected.sendall(b"hello"))
        server.start()
        return server

    server = hub.call(serve)
    with socket.create_connection(server.address[:2], timeout=30) as plain:
        assert plain.recv(5) == b"hello"
    hub.call(server.stop)


def test_a_stopped_hub_leaves_no_thread_and_no_greenlet():
    at_first = leftovers.take_stock()
    hub = Hub()
    waiting = hub.spawn(gevent.sleep, 1000)
    assert hub.call(lambda: "served") == "served"
    hub.stop()
    assert isinstance(waiting.exception(30), gevent.GreenletExit | CancelledError)
    assert not hub.alive
    assert leftovers.since(at_first) == []
    with pytest.raises(RuntimeError):
        hub.call(print)


def test_a_program_says_what_it_prints_and_its_log_is_gone_with_it():
    code = "import sys, time; print('starting'); print('port http://127.0.0.1:42', flush=True); "
    program = Program("-c", code + "print('oh', file=sys.stderr, flush=True); time.sleep(1000)")
    assert program.port() == 42
    assert program.said[0] == "starting"
    assert program.end() != 0
    assert not program.log.exists()


def test_a_program_that_ends_too_early_is_reported_with_its_log():
    with Program("-c", "import sys; sys.exit('no luck')") as program:
        with pytest.raises(RuntimeError, match="no luck"):
            program.line("ready")


WAITING = """
import gevent, gevent.socket, socket, threading
here, there = socket.socketpair()
{}
print("ready", flush=True)
gevent.socket.wait_read(here.fileno())
"""
BUSY = {
    "timer": "gevent.spawn_later(1000, print)",
    "thread": "threading.Timer(1000, print).start()",
    "loop": "while True: print('ready', flush=True)",
}


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process waits for")
def test_a_process_that_waits_for_events_only_is_at_rest():
    with Program("-c", WAITING.format("")) as program:
        program.line("ready")
        wait_until(lambda: resting.at_rest(program.pid))
        assert resting.at_rest(program.pid, program.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process waits for")
@pytest.mark.parametrize("kind", BUSY)
def test_a_process_that_works_or_will_be_woken_is_not_at_rest(kind):
    with Program("-c", WAITING.format(BUSY[kind])) as program:
        program.line("ready")
        for _ in range(50):  # however far it has got
            assert not resting.at_rest(program.pid)
            time.sleep(0.01)


def test_a_hub_without_orders_is_at_rest(hub):
    assert hub.call(lambda: "served") == "served"
    wait_until(lambda: resting.at_rest(os.getpid(), hub.native_id))
    hub.spawn(gevent.sleep, 1000)
    assert not resting.at_rest(os.getpid(), hub.native_id)


def test_where_the_kernel_does_not_say_everybody_is_at_rest(monkeypatch):
    monkeypatch.setattr(resting, "Path", lambda _: Path("/nowhere"))
    assert resting.at_rest(os.getpid())


@pytest.mark.parametrize("kind", ["child", "thread", "greenlet", "listening socket"])
def test_what_is_left_is_noticed(kind, monkeypatch):
    at_first = leftovers.take_stock()
    ended = threading.Event()
    if kind == "child":
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    elif kind == "thread":
        threading.Thread(target=ended.wait, name="left").start()
    elif kind == "greenlet":
        sleeper = gevent.spawn(gevent.sleep, 1000)
        gevent.sleep(0)
    else:
        listener = socket.create_server(("127.0.0.1", 0))
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "SECONDS", 0.1)
        assert [what for what, _ in leftovers.since(at_first)] == [kind]
    ended.set()
    if kind == "child":
        child.communicate()
    elif kind == "greenlet":
        sleeper.kill()
    elif kind == "listening socket":
        listener.close()
    assert leftovers.since(at_first) == []


def test_looking_for_leftovers_wakes_no_lazy_object():
    lazy = SimpleLazyObject(lambda: pytest.fail("it was woken"))
    assert leftovers.since(leftovers.take_stock()) == []
    del lazy


def test_the_thread_that_a_kernel_starts_for_large_pictures_is_not_left_by_a_chapter():
    at_first = leftovers.take_stock()
    GarbageCollector().store(b"a large picture")
    assert leftovers.since(at_first) == []


def test_figures_are_the_same_bytes_each_time():
    def drawn():
        return [
            figures.you_are_here(3),
            figures.system_map(),
            figures.sequence("Who talks.", ["a", "b"], [("a", "b", "hello")], a="ours"),
            figures.layout("A frame.", [(1, "FIN\n1"), (7, "…"), (40, "long\nover", "ours")]),
            figures.turns("Whose turn.", ["a", "b", "a"], b="store"),
        ]

    assert [each._repr_svg_() for each in drawn()] == [each._repr_svg_() for each in drawn()]


def test_a_chapter_more_changes_no_map_of_the_chapters_before(monkeypatch):
    before = [figures.you_are_here(number)._repr_svg_() for number in range(5)]
    monkeypatch.setattr(figures, "CHAPTERS", figures.CHAPTERS[:5])
    assert [figures.you_are_here(number)._repr_svg_() for number in range(5)] == before


def test_a_field_that_goes_over_the_row_is_drawn_in_pieces():
    assert figures._pieces([(24, "head"), (16, "tail")], row=32) == [
        (0, 0, 24, "head", "plain"),
        (0, 24, 8, "tail", "plain"),
        (1, 0, 8, "", "plain"),
    ]
