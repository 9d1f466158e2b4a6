"""The chat of several people over two servers and two workers, and over one process that is both.

Through websocket-client and urllib, as far from our own code as can be. What a frame means is
tried in tests/chat; here it is that frames arrive wherever people are, and that nobody waits for
another one.
"""

import http.client
import secrets
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from urllib.parse import urlencode, urlsplit

import psycopg2
import pytest
import websocket

from tests.system.children import DEADLINE
from tests.system.conftest import PASSWORD
from tests.system.people import ROOM, TOKEN, Browser, Page, came, left, said

SOCKETS = 20
BIG = 1_000_000  # bytes: many reads of the server, and many letters of the relay


def meet(room, *pages):
    """All of them join; each hears of those who come later."""
    for number, page in enumerate(pages):
        assert page.ask("join", room)["join"] == str(room)
        for earlier in pages[:number]:
            assert earlier.hear()["msg_type"] == 4


# --- what people say ----------------------------------------------------------------------


def test_a_line_reaches_all_in_the_room_and_its_sender(places, enter, room):
    first, second = places
    pages = [enter(first, "alice"), enter(second, "bob"), enter(second, "carol")]
    meet(room, *pages)
    pages[0].say("send", room, message="Tea? ☕ <b>")
    assert [page.hear() for page in pages] == [said(room, "alice", "Tea? ☕ <b>")] * 3
    pages[1].say("send", room, message="Yes.")
    assert [page.hear() for page in pages] == [said(room, "bob", "Yes.")] * 3


def test_lines_of_one_sender_arrive_in_order(places, enter, room):
    first, second = places
    alice, bob = enter(first, "alice"), enter(second, "bob")
    meet(room, alice, bob)
    texts = [f"line {number}" for number in range(15)]
    for text in texts:
        alice.say("send", room, message=text)
    for page in (alice, bob):
        assert [page.hear()["message"] for _ in texts] == texts


def test_rooms_do_not_hear_each_other(places, enter, new_room):
    first, second = places
    here, there = new_room("Here"), new_room("There")
    alice, bob = enter(first, "alice"), enter(second, "bob")
    meet(here, alice)
    meet(there, bob)
    assert alice.ask("send", here, message="only here") == said(here, "alice", "only here")
    assert bob.hears_nothing()


def test_one_page_may_be_in_several_rooms(places, enter, new_room):
    first, second = places
    rooms = [new_room("One"), new_room("Two")]
    alice, bob = enter(first, "alice"), enter(second, "bob")
    for room in rooms:
        meet(room, alice, bob)
    for room in rooms:
        bob.say("send", room, message="hello")
        assert alice.hear() == said(room, "bob", "hello")


# --- who comes and goes -------------------------------------------------------------------


def test_others_hear_who_comes_and_goes(places, enter, room):
    first, second = places
    alice, bob = enter(first, "alice"), enter(second, "bob")
    alice.ask("join", room)
    assert bob.ask("join", room) == {"join": str(room), "title": "Garden"}
    assert alice.hear() == came(room, "bob")
    assert bob.ask("leave", room) == {"leave": str(room)}
    assert alice.hear() == left(room, "bob")
    assert bob.hears_nothing()  # a notice is for the others


def test_who_has_left_hears_no_more_and_may_say_no_more(places, enter, room):
    first, second = places
    alice, bob = enter(first, "alice"), enter(second, "bob")
    meet(room, alice, bob)
    bob.ask("leave", room)
    assert alice.hear() == left(room, "bob")
    assert alice.ask("send", room, message="gone?") == said(room, "alice", "gone?")
    assert bob.hears_nothing()
    assert bob.ask("send", room, message="no") == {"error": "ROOM_ACCESS_DENIED"}


def test_who_closes_the_page_leaves_its_rooms(places, enter, new_room):
    first, second = places
    rooms = [new_room("One"), new_room("Two")]
    alice, bob = enter(first, "alice"), enter(second, "bob")
    for room in rooms:
        meet(room, alice, bob)
    bob.close()
    notices = [alice.hear(), alice.hear()]
    notices.sort(key=lambda notice: int(notice["room"]))
    assert notices == [left(room, "bob") for room in rooms]


def test_who_vanishes_without_a_word_leaves_its_rooms(places, enter, room):
    first, second = places
    alice, bob = enter(first, "alice"), enter(second, "bob")
    meet(room, alice, bob)
    bob.socket.shutdown()  # the network ends, and there is no close frame
    assert alice.hear() == left(room, "bob")


# --- who may ------------------------------------------------------------------------------


def test_a_staff_room_is_for_staff_only(places, enter, staff_room):
    first, second = places
    alice, bob = enter(first, "alice"), enter(second, "bob")
    meet(staff_room, alice)
    assert bob.ask("join", staff_room) == {"error": "ROOM_ACCESS_DENIED"}
    assert bob.ask("send", staff_room, message="?") == {"error": "ROOM_ACCESS_DENIED"}
    assert alice.ask("send", staff_room, message="psst") == said(staff_room, "alice", "psst")
    assert bob.hears_nothing()
    assert alice.hears_nothing()


def test_who_is_staff_no_longer_loses_the_staff_room(places, enter, staff_room, sql):
    first, second = places
    staff = "UPDATE auth_user SET is_staff = %s WHERE username = 'carol'"
    sql(staff, True)
    try:
        alice, carol = enter(first, "alice"), enter(second, "carol")
        meet(staff_room, alice, carol)
    finally:
        sql(staff, False)
    assert carol.ask("send", staff_room, message="?") == {"error": "ROOM_ACCESS_DENIED"}
    assert carol.hear() == {"leave": str(staff_room)}
    assert alice.hear() == left(staff_room, "carol")


def refused(url, cookie, origin=None):
    """The HTTP status that a handshake is refused with."""
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        Page(url, cookie, origin)
    return caught.value.status_code


def test_a_stranger_is_refused_at_the_handshake(places):
    assert refused(places[0], None) == 403
    assert refused(places[0], "sessionid=guessed") == 403


def test_a_page_of_another_site_is_refused_at_the_handshake(places, browser_of):
    cookie = browser_of("alice", places[0]).cookie
    for origin in ("http://elsewhere.example", "null"):
        assert refused(places[0], cookie, origin) == 403


def test_who_logs_out_is_out_on_all_servers(places, enter, room):
    first, second = places
    browser = Browser()
    browser.log_in(first, "bob", PASSWORD)
    cookie = browser.cookie
    page, other = Page(second, cookie), enter(first, "alice")
    try:
        meet(room, other, page)
        response, _ = browser.post(f"{first}/accounts/logout/", page=f"{first}/")
        assert response.url == f"{first}/accounts/login/"
        assert page.ask("send", room, message="?") == {"error": "USER_HAS_TO_LOGIN"}
        assert page.hear() == {"leave": str(room)}
        assert other.hear() == left(room, "bob")
        assert refused(second, cookie) == 403
    finally:
        page.close()


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        ("{", "FRAME_NOT_JSON"),
        ("[]", "FRAME_NOT_OBJECT"),
        ('{"command": "dance"}', "COMMAND_UNKNOWN"),
        (b"\x00\xff", "FRAME_NOT_TEXT"),
        ("x" * 900_000, "FRAME_TOO_LONG"),
    ],
    ids=["no JSON", "no object", "no command", "binary", "too long"],
)
def test_nonsense_gets_an_error_and_does_not_end_a_socket(places, enter, room, frame, error):
    page = enter(places[0], "alice")
    if isinstance(frame, bytes):
        page.socket.send_binary(frame)
    else:
        page.socket.send(frame)
    assert page.hear() == {"error": error}
    assert page.ask("join", room)["join"] == str(room)


# --- many at once -------------------------------------------------------------------------


def test_connections_to_redis_do_not_grow_with_sockets(system, enter, new_room):
    for url in system.urls.values():
        enter(url, "alice")  # a server's relay connects with its first page
    before = system.redis_connections()
    for url in system.urls.values():
        for _ in range(SOCKETS):
            room = new_room("One of many")
            assert enter(url, "alice").ask("join", room)["join"] == str(room)
    assert system.redis_connections() == before
    assert before.keys() == {*system.servers, *system.workers, "whole"}
    assert max(before.values()) <= 3


@contextmanager
def rooms_locked(database):
    """Whoever looks for a room in Postgres waits until this block ends."""
    connection = psycopg2.connect(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE chat_room IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.close()  # rolls back


def waiting(sql, number):
    """How many wait for the lock, by process, as soon as `number` do."""
    who = (
        "SELECT application_name, count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND backend_type = 'client backend' AND datname = current_database()"
    )
    deadline = time.monotonic() + DEADLINE
    while True:
        found = dict(sql(f"{who} GROUP BY 1"))
        if sum(found.values()) >= number or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def test_handlers_that_wait_for_postgres_wait_at_the_same_time(
    places, system, enter, room, sql, database
):
    others = [enter(url, "bob") for url in places]
    pages = [enter(places[number % 2], "alice") for number in range(SOCKETS)]
    with rooms_locked(database):
        for page in pages:
            page.say("join", room)
        found = waiting(sql, SOCKETS)
        assert sum(found.values()) == SOCKETS
        # Who needs nothing from Postgres is not held up meanwhile.
        for other, url in zip(others, places, strict=True):
            assert other.hears_nothing()
            assert Browser().get(f"{url}/accounts/login/")[0].status == 200
    for page in pages:
        while page.hear() != {"join": str(room), "title": "Garden"}:
            pass  # the notices of the others


def test_each_worker_takes_its_part_of_the_connections(system, enter, room, sql, database):
    pages = [enter(system.urls["server-1"], "alice") for _ in range(SOCKETS)]
    with rooms_locked(database):
        for page in pages:
            page.say("join", room)
        found = waiting(sql, SOCKETS)
    assert found.keys() == system.workers.keys()
    assert min(found.values()) >= SOCKETS // 4


# --- pages --------------------------------------------------------------------------------


def test_a_page_lists_the_rooms_for_who_is_logged_in(places, browser_of, room, staff_room):
    assert Browser().get(f"{places[0]}/")[0].url == f"{places[0]}/accounts/login/?next=/"
    for url in places:
        response, text = browser_of("bob", url).get(f"{url}/")
        assert response.status == 200
        assert {str(room), str(staff_room)} <= set(ROOM.findall(text))


def test_the_admin_works_with_its_files(places, browser_of):
    browser = browser_of("alice", places[0])
    assert "Site administration" in browser.get(f"{places[1]}/admin/")[1]
    response, text = browser.get(f"{places[1]}/static/admin/css/base.css")
    assert response.headers["Content-Type"].startswith("text/css")
    assert len(text.encode()) == int(response.headers["Content-Length"]) > 10_000


def test_a_wrong_password_is_refused(places):
    with pytest.raises(AssertionError, match="could not log in"):
        Browser().log_in(places[0], "bob", "guessed")


def test_a_form_without_its_token_is_refused(places):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{places[0]}/accounts/login/", b"username=bob", DEADLINE)
    with caught.value:
        assert caught.value.code == 403


def chunks(body):
    """Pieces of which none is a whole number of reads."""
    for start in range(0, len(body), 50_021):
        yield body[start : start + 50_021]


@pytest.mark.parametrize("how", ["whole", "chunked"])
def test_a_large_body_and_a_large_response_arrive_complete(places, how):
    """A form that does not hold is shown again, with what was typed: a million letters."""
    url = f"{places[0]}/accounts/login/"
    browser = Browser()
    token = TOKEN.search(browser.get(url)[1])[1]
    typed = secrets.token_hex(BIG // 2)
    body = urlencode({"csrfmiddlewaretoken": token, "username": typed, "password": "x"}).encode()
    headers = {"Cookie": browser.cookie, "Content-Type": "application/x-www-form-urlencoded"}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=DEADLINE)
    try:
        chunked = how == "chunked"
        connection.request(
            "POST", "/accounts/login/", chunks(body) if chunked else body, headers,
            encode_chunked=chunked,
        )  # fmt: skip
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200
        assert f'value="{typed}"' in text
        connection.request("HEAD", "/accounts/login/")  # the connection goes on
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
    finally:
        connection.close()
