"""The worker's end of a connection, without any I/O."""

from __future__ import annotations

import pytest

from tests.thyme.split.worker.connections import CONNECT, SCOPE, connect, sent
from thyme.errors import Disconnected
from thyme.split.flow_control import Window
from thyme.split.states import OwnershipState
from thyme.split.wire import CHUNK_BYTES

ACCEPT = {"type": "websocket.accept"}
NOTE = {"type": "websocket.resume.note", "note": b"n"}
LINE = {"type": "websocket.send", "text": "x"}


def received(text: str) -> dict[str, str]:
    return {"type": "websocket.receive", "text": text}


def test_an_event_counts_as_consumed_when_the_next_one_is_received():
    connection = connect(CONNECT, received("a"))
    connection.receive_nowait()
    connection.receive_nowait()
    assert sent(connection) == []
    connection.receive_nowait()
    assert sent(connection) == [["taken", 2, 2 * 64 + 1]]  # half of four


def test_a_sender_waits_when_the_window_is_used_up_and_continues_when_there_is_room():
    connection = connect(CONNECT)
    assert [connection.send_nowait(LINE) for _ in range(4)] == [True, True, True, False]
    connection.handle_window_update(1, 65)
    assert connection.has_room


def test_a_large_body_goes_in_chunks_as_there_is_room_and_keeps_its_length():
    relay_window = [64, 2 * CHUNK_BYTES]
    connection = connect(
        scope=SCOPE | {"type": "http"}, window=Window(*relay_window), relay_window=relay_window
    )
    connection.send_nowait({"type": "http.response.start", "status": 200, "headers": []})
    body = bytes(5 * CHUNK_BYTES + 1)
    assert not connection.send_nowait({"type": "http.response.body", "body": body})
    assert len(sent(connection)) < 5
    start = sent(connection)[0][1]
    assert start["headers"] == [[b"content-length", b"%d" % len(body)]]
    while not connection.has_room:
        connection.handle_window_update(1, CHUNK_BYTES + 64)
    chunks = [entry[1] for entry in sent(connection)[1:]]
    assert b"".join(chunk["body"] for chunk in chunks) == body
    assert [chunk["more_body"] for chunk in chunks] == [True] * 5 + [False]


@pytest.mark.parametrize("events", [(), (CONNECT,)], ids=["consumed", "not consumed"])
def test_a_socket_that_is_resumed_begins_with_one_connect(events):
    connection = connect(*events, received("a"), note=b"n", resumes=True)
    assert connection.receive_nowait()["type"] == "websocket.connect"
    assert connection.receive_nowait()["text"] == "a"


def test_events_carry_their_number_once_there_is_a_note():
    connection = connect(CONNECT, received("a"), received("b"))
    connection.receive_nowait()
    assert "id" not in connection.receive_nowait()
    connection.send_nowait(NOTE)
    assert connection.receive_nowait()["id"] == ["s", 3]


def test_a_note_must_be_short():
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        connect(CONNECT).send_nowait({"type": "websocket.resume.note", "note": bytes(5000)})


def test_an_application_may_inform_its_rooms_when_the_peer_is_gone_but_not_talk_for_ever():
    connection = connect(CONNECT)
    connection.handle_release(False)
    assert all(connection.send_nowait(LINE) for _ in range(4))  # one window is discarded
    with pytest.raises(Disconnected):
        connection.send_nowait(LINE)
    assert connection.send_nowait({"type": "websocket.resume.note", "note": None})
    assert sent(connection) == []


def test_a_socket_with_a_note_is_left_when_its_last_event_has_been_consumed():
    connection = connect(CONNECT, received("a"), note=b"n")
    connection.receive_nowait()
    connection.send_nowait(ACCEPT)
    connection.receive_nowait()
    connection.stop()
    assert ["leave"] not in sent(connection)
    assert connection.receive_nowait() is None
    assert sent(connection)[-1] == ["leave"]
    connection.handle_release(True)
    assert connection.receive_nowait() == {"type": "websocket.handover"}


def test_events_that_arrive_while_a_socket_is_left_are_for_the_successor():
    connection = connect(CONNECT, note=b"n")
    connection.receive_nowait()
    connection.send_nowait(ACCEPT)
    connection.stop()
    assert connection.receive_nowait() is None
    connection.handle_event(received("a"))
    assert connection.receive_nowait() is None
    connection.handle_release(True)
    assert connection.receive_nowait() == {"type": "websocket.handover"}
    assert connection.receive_nowait() is None


def test_an_application_that_is_succeeded_is_told_so_once_and_may_send_its_last_messages():
    connection = connect(CONNECT, note=b"n")
    connection.receive_nowait()
    connection.send_nowait(ACCEPT)
    connection.stop()
    assert connection.receive_nowait() is None
    connection.handle_release(True)
    assert connection.receive_nowait() == {"type": "websocket.handover"}
    assert connection.receive_nowait() is None
    connection.send_nowait({"type": "websocket.send", "text": "a"})
    assert sent(connection)[-1] == ["event", {"type": "websocket.send", "text": "a"}, None]
    connection.hand_over()  # the time to stop is over
    connection.handle_release(False)  # and the server has died
    assert connection.receive_nowait() is None
    assert connection.handed_over


def test_a_socket_that_is_being_accepted_when_its_worker_stops_is_left_as_soon_as_it_can_be():
    connection = connect(CONNECT)
    connection.stop()  # the application has not even received the connect
    assert connection.receive_nowait() == CONNECT
    connection.send_nowait(ACCEPT)
    connection.send_nowait(NOTE)
    assert connection.receive_nowait() is None
    assert sent(connection)[-1] == ["leave"]


def test_a_socket_without_a_note_ends_when_its_worker_stops():
    connection = connect(CONNECT)
    connection.receive_nowait()
    connection.send_nowait(ACCEPT)
    connection.stop()
    assert connection.receive_nowait() == {"type": "websocket.disconnect", "code": 1012}
    connection.hand_over()
    connection.end(None)
    assert ["leave"] not in sent(connection)
    assert sent(connection)[-1] == ["end", "stopped"]


def test_a_socket_without_a_note_receives_what_has_arrived_before_it_ends():
    connection = connect(CONNECT, received("a"))
    connection.receive_nowait()
    connection.send_nowait(ACCEPT)
    connection.stop()
    assert connection.receive_nowait()["text"] == "a"
    assert connection.receive_nowait() == {"type": "websocket.disconnect", "code": 1012}


@pytest.mark.parametrize("accepted", [True, False])
def test_a_socket_whose_application_is_busy_for_too_long_is_left_as_if_its_worker_had_died(
    accepted,
):
    connection = connect(CONNECT, received("a"))
    connection.receive_nowait()
    if accepted:
        connection.send_nowait(ACCEPT)
        connection.send_nowait(NOTE)
        assert connection.receive_nowait()["text"] == "a"  # and that takes long
    connection.stop()
    assert ["leave"] not in sent(connection)
    connection.hand_over()
    assert sent(connection)[-1] == ["leave"]
    assert connection.handed_over == accepted


def test_a_peer_that_leaves_while_a_successor_is_looked_for_is_a_disconnect():
    connection = connect(CONNECT, note=b"n")
    connection.receive_nowait()
    connection.send_nowait(ACCEPT)
    connection.stop()
    assert connection.receive_nowait() is None
    connection.handle_event(received("a"))
    connection.handle_release(False)
    assert connection.receive_nowait()["text"] == "a"
    assert connection.receive_nowait() == {"type": "websocket.disconnect", "code": 1006}
    connection.stop()
    assert connection.ownership is OwnershipState.DISCONNECTED


def test_a_request_is_finished_when_its_worker_stops():
    connection = connect(scope=SCOPE | {"type": "http"})
    connection.stop()
    assert connection.ownership is OwnershipState.SERVING
    assert connection.receive_nowait() is None


def test_a_response_without_body_is_sent_when_the_application_returns():
    connection = connect(scope=SCOPE | {"type": "http"})
    start = {"type": "http.response.start", "status": 204, "headers": []}
    connection.send_nowait(start)
    assert sent(connection) == []
    connection.end(None)
    assert sent(connection) == [["event", start, None], ["end", "returned"]]
