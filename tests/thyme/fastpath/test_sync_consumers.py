"""Synchronous consumers: the fast path and Channels' own path give the same.

Each scenario is a program for a patched child process (`site.py`), which runs it on both paths; it
prints what happened, and both must print the same. A few rules hold for the fast path only.
"""

from __future__ import annotations


def test_events_are_handled_in_order_and_sent_in_order(paths):
    printed = paths.both("""
        class Echo(WebsocketConsumer):
            def connect(self):
                self.accept(subprotocol="chat")
            def receive(self, text_data=None, bytes_data=None):
                self.send(text_data=text_data.upper())
                self.send(bytes_data=b"!")
            def disconnect(self, code):
                print("left", code)
        for event in converse(Echo, "a", "b"):
            print({key: value for key, value in event.items() if value is not None})
    """)
    assert printed.startswith("left 1001\n{'type': 'websocket.accept', 'subprotocol': 'chat'}")


def test_a_consumer_that_denies_or_closes_ends(paths):
    paths.both("""
        class Denies(WebsocketConsumer):
            def connect(self):
                raise DenyConnection()
        class Closes(WebsocketConsumer):
            def receive(self, text_data=None, bytes_data=None):
                self.close(code=4001, reason="enough")
        print(converse(Denies), converse(Closes, "x"))
    """)


def test_an_exception_of_a_handler_reaches_the_server(paths):
    assert "KeyError('mine')" in paths.both("""
        class Fails(WebsocketConsumer):
            def receive(self, text_data=None, bytes_data=None):
                raise KeyError("mine")
        print(converse(Fails, "x")[-1])
    """)


def test_an_unknown_message_is_an_error(paths):
    assert "No handler for message type" in paths.both("""
        class Talks(WebsocketConsumer):
            def connect(self):
                self.accept()
                async_to_sync(self.channel_layer.send)(self.channel_name, {"type": "no.such"})
        peer = Peer(serve(Talks), WEBSOCKET, CONNECT)
        try:
            peer.end()
        except ValueError as error:
            print(error)
    """)


def test_groups_reach_all_members_in_the_senders_order(paths):
    assert (
        paths.both("""
        class Room(WebsocketConsumer):
            def connect(self):
                async_to_sync(self.channel_layer.group_add)("room", self.channel_name)
                self.accept()
            def receive(self, text_data=None, bytes_data=None):
                for number in range(3):
                    message = {"type": "room.line", "text": f"{text_data}{number}"}
                    async_to_sync(self.channel_layer.group_send)("room", message)
            def room_line(self, event):
                self.send(text_data=event["text"])
        application = serve(Room)
        peers = [Peer(application, WEBSOCKET, CONNECT) for _ in range(3)]
        for peer in peers:
            assert peer.next()["type"] == "websocket.accept"
        peers[0].say("a")
        for peer in peers:
            print([peer.next()["text"] for _ in range(3)])
        for peer in peers:
            peer.leave()
            print(peer.end())
    """).splitlines()[:3]
        == ["['a0', 'a1', 'a2']"] * 3
    )


def test_stop_consumer_raised_for_a_channel_message_ends_the_consumer(paths):
    assert paths.both("""
        class Stops(WebsocketConsumer):
            def connect(self):
                self.accept()
                async_to_sync(self.channel_layer.send)(self.channel_name, {"type": "stop.now"})
            def stop_now(self, event):
                raise StopConsumer()
        print(Peer(serve(Stops), WEBSOCKET, CONNECT).end())
    """).startswith("[{'type': 'websocket.accept'")


def test_handlers_of_one_connection_never_overlap(paths):
    assert paths.both("""
        busy, overlaps = [], []
        class Slow(WebsocketConsumer):
            def connect(self):
                self.accept()
                for _ in range(5):
                    self.tell_myself({"type": "layer.says"})
            def tell_myself(self, message):
                async_to_sync(self.channel_layer.send)(self.channel_name, message)
            def handle(self):
                overlaps.append(len(busy))
                busy.append(1)
                gevent.sleep(0.005)
                busy.pop()
            def receive(self, text_data=None, bytes_data=None):
                self.handle()
            def layer_says(self, event):
                self.handle()
        peer = Peer(serve(Slow), WEBSOCKET, CONNECT)
        for _ in range(5):
            peer.say("x")
        while len(overlaps) < 10:
            gevent.sleep(0.005)
        peer.leave()
        peer.end()
        print(overlaps)
    """) == str([0] * 10)


def test_the_session_middleware_and_the_scope_are_there(paths):
    paths.both("""
        settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
        class Tells(WebsocketConsumer):
            def connect(self):
                self.accept()
                session = self.scope["session"]
                session["seen"] = session.get("seen", 0) + 1
                self.send(text_data=json.dumps([sorted(self.scope), dict(session)]))
        for event in converse(Tells, wrap=SessionMiddlewareStack):
            print(event)
    """)


def test_a_middleware_that_wraps_send_still_sees_every_event(paths):
    assert (
        paths.both("""
        import asyncio
        class Counts:
            def __init__(self, inner):
                self.inner = inner
            async def __call__(self, scope, receive, send):
                seen = []
                async def counting(event):
                    await asyncio.sleep(0)
                    seen.append(event["type"])
                    await send(event)
                await self.inner(scope, receive, counting)
                print(seen)
        class Echo(WebsocketConsumer):
            def receive(self, text_data=None, bytes_data=None):
                self.send(text_data=text_data)
        print(len(converse(Echo, "a", "b", wrap=Counts)))
    """)
        == "['websocket.accept', 'websocket.send', 'websocket.send']\n3"
    )


def test_an_event_that_a_middleware_stopped_waiting_for_goes_to_the_consumer(paths):
    assert (
        paths.both("""
        import asyncio
        class GivesUp:
            def __init__(self, inner):
                self.inner = inner
            async def __call__(self, scope, receive, send):
                try:
                    await asyncio.wait_for(receive(), 0.001)
                except TimeoutError:
                    print("gave up")
                    gave_up.set()
                await self.inner(scope, receive, send)
        class Echo(WebsocketConsumer):
            def receive(self, text_data=None, bytes_data=None):
                self.send(text_data=text_data)
        gave_up = gevent.event.Event()
        peer = Peer(serve(Echo, wrap=GivesUp), WEBSOCKET)
        gave_up.wait()
        peer.incoming.put(CONNECT)
        print(peer.next()["type"])
        peer.say("a")
        print(peer.next()["text"])
        peer.leave()
        peer.end()
    """)
        == "gave up\nwebsocket.accept\na"
    )


def test_context_variables_of_the_middleware_are_seen_by_handlers(paths):
    assert (
        paths.both("""
        import contextvars
        tenant = contextvars.ContextVar("tenant", default="none")
        class Sets:
            def __init__(self, inner):
                self.inner = inner
            async def __call__(self, scope, receive, send):
                tenant.set("acme")
                await self.inner(scope, receive, send)
        class Tells(WebsocketConsumer):
            def connect(self):
                self.accept()
                async_to_sync(self.channel_layer.send)(self.channel_name, {"type": "layer.says"})
            def receive(self, text_data=None, bytes_data=None):
                self.send(text_data="socket " + tenant.get())
            def layer_says(self, event):
                self.send(text_data="layer " + tenant.get())
        peer = Peer(serve(Tells, wrap=Sets), WEBSOCKET, CONNECT)
        peer.next()
        print(peer.next()["text"])
        peer.say("x")
        print(peer.next()["text"])
        peer.leave()
        peer.end()
    """)
        == "layer acme\nsocket acme"
    )


def test_a_consumer_that_overrides_dispatch_is_left_to_channels(paths):
    assert paths.both("""
        from channels.db import database_sync_to_async
        class Overrides(WebsocketConsumer):
            @database_sync_to_async
            def dispatch(self, message):
                print("mine", message["type"])
                getattr(self, message["type"].replace(".", "_"))(message)
        converse(Overrides)
    """).startswith("mine websocket.connect")


def test_handlers_of_different_connections_overlap(paths):
    """40 handlers that all wait for each other: they end only if all run at the same time."""
    assert (
        paths.both("""
        arrived, gate = [], gevent.event.Event()
        class Meets(WebsocketConsumer):
            def receive(self, text_data=None, bytes_data=None):
                arrived.append(1)
                if len(arrived) == 40:
                    gate.set()
                print(gate.wait(60), end=" ")
        application = serve(Meets)
        peers = [Peer(application, WEBSOCKET, CONNECT) for _ in range(40)]
        for peer in peers:
            peer.say("x")
            peer.leave()
        for peer in peers:
            peer.end()
    """).split()
        == ["True"] * 40
    )


def test_handlers_of_messages_overlap_when_they_wait(paths):
    """A line for 40 members that all wait for each other: only the layer's messages run them."""
    assert (
        paths.both("""
        arrived, gate = [], gevent.event.Event()
        class Meets(WebsocketConsumer):
            def connect(self):
                async_to_sync(self.channel_layer.group_add)("room", self.channel_name)
                self.accept()
            def receive(self, text_data=None, bytes_data=None):
                async_to_sync(self.channel_layer.group_send)("room", {"type": "room.line"})
            def room_line(self, event):
                arrived.append(1)
                if len(arrived) == 40:
                    gate.set()
                self.send(text_data=str(gate.wait(60)))
        application = serve(Meets)
        peers = [Peer(application, WEBSOCKET, CONNECT) for _ in range(40)]
        for peer in peers:
            peer.next()
        peers[0].say("x")
        print(*(peer.next()["text"] for peer in peers))
        for peer in peers:
            peer.leave()
        for peer in peers:
            peer.end()
    """).split()
        == ["True"] * 40
    )


def test_a_fast_sender_receives_its_own_messages_meanwhile_and_all_of_them(paths):
    """More lines than a channel holds: its messages have their turn between those of the socket."""
    heard = paths.both("""
        class Room(WebsocketConsumer):
            def connect(self):
                async_to_sync(self.channel_layer.group_add)("room", self.channel_name)
                self.accept()
            def receive(self, text_data=None, bytes_data=None):
                message = {"type": "room.line", "text": text_data}
                async_to_sync(self.channel_layer.group_send)("room", message)
            def room_line(self, event):
                self.send(text_data=event["text"])
        peer = Peer(serve(Room), WEBSOCKET, CONNECT)
        peer.next()
        for number in range(300):
            peer.say(str(number))
        print(*(peer.next()["text"] for number in range(300)))
        peer.leave()
        peer.end()
    """)
    assert heard.split() == [str(number) for number in range(300)]


TOGETHER = """
    from gredis import GredisChannelLayer
    from gredis.names import Address
    layer = channel_layers.backends["default"] = GredisChannelLayer("{url}")
    from tests.thyme.serving import Browser, serving
    from thyme.server.stream import Stream
    names = []
    class Room(WebsocketConsumer):
        def connect(self):
            names.append(self.channel_name)
            self.accept()
        def room_line(self, event):
            self.send(text_data=event["text"])
            if event["text"] == "{waits}":
                gevent.sleep(0)
                print(pieces)
    pieces, send = [], Stream._send
    def written(stream, data):
        pieces.append([chr(byte) for byte in bytes(data)[2::3]])
        return send(stream, data)
    with serving(serve(Room)) as server, Browser(server) as browser:
        Stream._send = written
        name = Address.parse(names[0])
        for text in "abcd":
            layer.crossbar.unicast_soon(name, {{"type": "room.line", "text": text}})
        assert [browser.hear() for _ in range(4)] == list("abcd")
        print(pieces)
        Stream._send = send
    layer.crossbar.close()
"""


def test_sends_for_messages_that_arrive_together_are_written_together(paths, redis_server):
    printed = paths.fast(TOGETHER.format(url=redis_server.url, waits="nobody"))
    assert printed == "[['a', 'b', 'c', 'd']]"


def test_what_was_sent_before_a_handler_blocks_is_not_held_back(paths, redis_server):
    printed = paths.fast(TOGETHER.format(url=redis_server.url, waits="b"))
    assert printed.splitlines() == ["[['a', 'b']]", "[['a', 'b'], ['c', 'd']]"]


def test_context_variables_that_a_handler_sets_are_seen_by_all_later_handlers(paths):
    assert (
        paths.both("""
        import contextvars
        room = contextvars.ContextVar("room", default="none")
        class Tells(WebsocketConsumer):
            def connect(self):
                room.set("lobby")
                self.accept()
            def receive(self, text_data=None, bytes_data=None):
                async_to_sync(self.channel_layer.send)(self.channel_name, {"type": "layer.says"})
            def layer_says(self, event):
                self.send(text_data=room.get())
                room.set("den")
        peer = Peer(serve(Tells), WEBSOCKET, CONNECT)
        peer.next()
        for _ in range(2):
            peer.say("x")
            print(peer.next()["text"])
        peer.leave()
        peer.end()
    """)
        == "lobby\nden"
    )


def test_on_the_fast_path_no_event_reaches_the_loop(paths):
    assert (
        paths.fast("""
        from thyme.loop.shared import shared_loop
        class Echo(WebsocketConsumer):
            def receive(self, text_data=None, bytes_data=None):
                self.send(text_data=text_data)
        settings.CHANNEL_LAYERS = {}
        peer = Peer(serve(Echo), WEBSOCKET, CONNECT)
        peer.next()
        turns = []
        loop = shared_loop()
        once = loop._run_once
        loop._run_once = lambda: (turns.append(1), once())
        for number in range(100):
            peer.say(str(number))
            peer.next()
        print(len(turns) <= 1)
        peer.leave()
        peer.end()
    """)
        == "True"
    )
