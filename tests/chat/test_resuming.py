"""The last words of a socket that another process goes on with."""

from channels.layers import get_channel_layer

LINES = 50
OFFER = {"websocket.resume": {"note_bytes": 4096, "note": None}}


async def test_what_has_come_from_a_room_is_said_before_the_consumer_stands_aside(
    new_browser, open_browser, alice, bob, lobby
):
    """Whoever goes on may have come into the room too late for it."""
    witness = await open_browser(alice, lobby)
    browser = await new_browser(bob)
    browser.scope["extensions"] = OFFER
    assert await browser.connect()
    assert (await browser.receive_output())["type"] == "websocket.resume.note"
    await browser.ask("join", lobby.pk)
    assert (await browser.receive_output())["type"] == "websocket.resume.note"
    assert "join" in await browser.frame()
    event = {"type": "room.line", "exclude": None, "staff_only": False, "once": None}
    for number in range(LINES):
        said = {"room": lobby.pk, "text": f"[{number}]"}
        await get_channel_layer().group_send(lobby.group_name, event | said)
    await browser.send_input({"type": "websocket.handover"})
    assert [await browser.frame() for _ in range(LINES)] == [[n] for n in range(LINES)]
    await browser.wait()
    heard = [await witness.frame() for _ in range(LINES + 1)]
    assert heard[0]["username"] == "bob"  # came in; and nobody has left
    assert await witness.heard_nothing()
