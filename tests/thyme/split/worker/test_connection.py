"""The worker's half of a connection, without any I/O."""

from __future__ import annotations

import pytest

from thyme.errors import Disconnected
from thyme.split.flow_control import Window
from thyme.split.link import Link
from thyme.split.wire import PIECE_BYTES
from thyme.split.worker.connection import Taken

CONNECT = {"type": "websocket.connect"}
SCOPE = {"type": "websocket", "path": "/", "headers": [], "client": None, "server": None}


def half(*events, window=Window(4, 1000), scope=SCOPE, **more) -> Taken:  # noqa: B008
    link = Link("mine!1", "theirs!1", lambda wire: None, lambda function: None)
    note = more.pop("note", None)
    scope = scope | {"extensions": {"websocket.resume": {"note_bytes": 10, "note": note}}}
    opening = {
        "connection": 1,
        "scope": scope,
        "events": list(events),
        "number": 1,
        "stream": "s",
        "resumes": False,
        "window": [4, 1000],
    }
    return Taken(link, opening | more, window, lambda half: None)


def said(taken: Taken) -> list[list]:
    return [entry[1:] for entry in taken.link._batch.entries]


def test_an_event_counts_as_dealt_with_when_the_next_one_is_asked_for():
    taken = half(CONNECT, {"type": "websocket.receive", "text": "a"})
    taken.receive_now()
    taken.receive_now()
    assert said(taken) == []
    taken.receive_now()
    assert said(taken) == [["taken", 2, 2 * 64 + 1]]  # half of four


def test_a_sender_is_held_back_when_the_window_is_used_up_and_goes_on_when_there_is_room():
    taken = half(CONNECT)
    line = {"type": "websocket.send", "text": "x"}
    assert [taken.begin_send(line) for _ in range(4)] == [True, True, True, False]
    taken.taken(1, 65)
    assert taken.has_room


def test_a_large_body_goes_in_pieces_as_there_is_room_and_keeps_its_length():
    taken = half(scope=SCOPE | {"type": "http"}, window=Window(64, 2 * PIECE_BYTES))
    taken._outflow.window = Window(64, 2 * PIECE_BYTES)
    taken.begin_send({"type": "http.response.start", "status": 200, "headers": []})
    body = bytes(5 * PIECE_BYTES + 1)
    assert not taken.begin_send({"type": "http.response.body", "body": body})
    assert len(said(taken)) < 5
    start = said(taken)[0][1]
    assert start["headers"] == [(b"content-length", b"%d" % len(body))]
    while not taken.has_room:
        taken.taken(1, PIECE_BYTES + 64)
    pieces = [entry[1] for entry in said(taken)[1:]]
    assert b"".join(piece["body"] for piece in pieces) == body
    assert [piece["more_body"] for piece in pieces] == [True] * 5 + [False]


@pytest.mark.parametrize("events", [(), (CONNECT,)], ids=["dealt with", "not dealt with"])
def test_a_socket_that_is_resumed_begins_with_one_connect(events):
    line = {"type": "websocket.receive", "text": "a"}
    taken = half(*map(dict, (*events, line)), note=b"n", resumes=True)
    assert taken.receive_now()["type"] == "websocket.connect"
    assert taken.receive_now()["text"] == "a"


def test_lines_carry_their_number_once_there_is_a_note():
    taken = half(CONNECT, *({"type": "websocket.receive", "text": text} for text in "ab"))
    taken.receive_now()
    assert "id" not in taken.receive_now()
    taken.begin_send({"type": "websocket.resume.note", "note": b"n"})
    assert taken.receive_now()["id"] == ["s", 3]


def test_a_note_must_be_short():
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        half(CONNECT).begin_send({"type": "websocket.resume.note", "note": bytes(5000)})


def test_who_says_good_bye_after_its_server_died_may_leave_notes_but_nothing_else():
    taken = half(CONNECT)
    taken.release(False)
    line = {"type": "websocket.send", "text": "x"}
    assert all(taken.begin_send(line) for _ in range(4))  # a window of them goes unheard
    with pytest.raises(Disconnected):
        taken.begin_send(line)
    taken.begin_send({"type": "websocket.resume.note", "note": None})


def test_a_socket_with_a_note_is_handed_over_when_its_last_line_has_been_dealt_with():
    taken = half(dict(CONNECT), {"type": "websocket.receive", "text": "a"}, note=b"n")
    taken.receive_now()
    taken.begin_send({"type": "websocket.accept"})
    taken.receive_now()
    taken.stop()
    assert ["leave"] not in said(taken)
    assert taken.receive_now() is None
    assert said(taken)[-2:] == [["taken", 1, 65], ["leave"]] or said(taken)[-1] == ["leave"]
    taken.release(True)
    assert taken.receive_now() == {"type": "websocket.handover"}


def test_who_is_succeeded_is_told_so_once_and_may_say_its_last_words():
    taken = half(dict(CONNECT), note=b"n")
    taken.receive_now()
    taken.begin_send({"type": "websocket.accept"})
    taken.stop()
    assert taken.receive_now() is None
    taken.release(True)
    assert taken.receive_now() == {"type": "websocket.handover"}
    assert taken.receive_now() is None
    taken.begin_send({"type": "websocket.send", "text": "a"})
    assert said(taken)[-1] == ["event", {"type": "websocket.send", "text": "a"}, None]
    taken.part()  # the time is over
    taken.release(False)  # and the server has died
    assert taken.receive_now() is None
    assert taken.parted


def test_a_socket_that_is_being_opened_when_its_worker_stops_is_handed_over_once_it_can_be():
    taken = half(dict(CONNECT), scope=SCOPE)
    taken.stop()  # the application has not even asked for the connect
    assert taken.receive_now() == CONNECT
    taken.begin_send({"type": "websocket.accept"})
    taken.begin_send({"type": "websocket.resume.note", "note": b"n"})
    assert taken.receive_now() is None
    assert said(taken)[-1] == ["leave"]


def test_a_socket_that_is_open_without_a_note_ends_when_its_worker_stops():
    taken = half(dict(CONNECT))
    taken.receive_now()
    taken.begin_send({"type": "websocket.accept"})
    taken.stop()
    assert taken.receive_now() == {"type": "websocket.disconnect", "code": 1012}
    taken.part()
    taken.end()
    assert ["leave"] not in said(taken)
    assert said(taken)[-1] == ["end", "stopped"]


@pytest.mark.parametrize("accepted", [True, False])
def test_a_socket_whose_application_is_busy_for_too_long_is_handed_over_as_of_the_dead(accepted):
    taken = half(dict(CONNECT), {"type": "websocket.receive", "text": "a"})
    taken.receive_now()
    if accepted:
        taken.begin_send({"type": "websocket.accept"})
        taken.begin_send({"type": "websocket.resume.note", "note": b"n"})
        assert taken.receive_now()["text"] == "a"  # and that takes long
    taken.stop()
    assert ["leave"] not in said(taken)
    taken.part()
    assert said(taken)[-1] == ["leave"]
    assert taken.parted == accepted
