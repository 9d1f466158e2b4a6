"""Django's pages: the fast path and Django's own handler give the same.

Each scenario is a program for a patched child process (`site.py`) that runs it both paths.
"""

from __future__ import annotations


def test_a_page_its_headers_cookies_and_signals(paths):
    printed = paths.both("""
        watch_signals()
        def page(request):
            response = HttpResponse(f"{request.method} {request.GET} {request.scope['client']}")
            response.set_cookie("a", "b")
            return response
        urlpatterns.append(path("", page))
        show(request(query_string=b"q=1"))
    """)
    assert printed.startswith("started True\nfinished\n{'type': 'http.response.start'")


def test_a_posted_form_small_and_large(paths):
    paths.both("""
        settings.FILE_UPLOAD_MAX_MEMORY_SIZE = 1000
        def form(request):
            return HttpResponse(f"{len(request.POST['a'])}")
        urlpatterns.append(path("", form))
        headers = [(b"content-type", b"application/x-www-form-urlencoded")]
        for size in (10, 5000):
            body = b"a=" + b"x" * size
            length = [(b"content-length", str(len(body)).encode())]
            show(request(method="POST", headers=headers + length, body=body))
    """)


def test_errors_are_djangos(paths):
    printed = paths.both("""
        import logging
        logging.disable()
        def fails(request):
            raise KeyError("x")
        urlpatterns.append(path("fails", fails))
        show(request("/fails"))
        show(request("/missing"))
    """)
    assert "'status': 500" in printed
    assert "'status': 404" in printed


def test_streamed_responses_synchronous_and_asynchronous(paths):
    printed = paths.both("""
        import warnings
        warnings.simplefilter("ignore")  # stock Django warns of synchronous iterators under ASGI
        def numbers(request):
            return StreamingHttpResponse(str(number) for number in range(3))
        async def later():
            import asyncio
            for number in range(3):
                await asyncio.sleep(0.001)
                yield f"a{number}"
        def awaited(request):
            return StreamingHttpResponse(later())
        urlpatterns.extend([path("numbers", numbers), path("awaited", awaited)])
        show(request("/awaited"))
        show(request("/numbers"))
    """)
    assert "b'a2'" in printed


def test_an_endless_asynchronous_stream_ends_when_the_peer_leaves(paths):
    assert paths.both("""
        ended = gevent.event.Event()
        async def endless():
            import asyncio
            try:
                yield "first"
                await asyncio.sleep(3600)
            finally:
                ended.set()
        urlpatterns.append(path("", lambda request: StreamingHttpResponse(endless())))
        peer = Peer(site(), HTTP, REQUEST)
        peer.next(), peer.next()
        peer.gone = True
        peer.incoming.put({"type": "http.disconnect"})
        peer.end()
        print(ended.wait(60))
    """).endswith("True")


def test_asynchronous_views_work(paths):
    paths.both("""
        async def view(request):
            import asyncio
            await asyncio.sleep(0.001)
            return HttpResponse("async")
        urlpatterns.append(path("", view))
        show(request())
    """)


def test_a_peer_that_leaves_during_its_upload_gets_no_page(paths):
    assert (
        paths.both("""
        urlpatterns.append(path("", lambda request: HttpResponse("x")))
        part = {"type": "http.request", "body": b"x", "more_body": True}
        print(Peer(site(), HTTP, part, {"type": "http.disconnect"}).end())
    """)
        == "[]"
    )


def test_on_the_fast_path_pages_run_in_the_greenlet_of_their_request(paths):
    assert paths.fast("""
        seen = []
        def page(request):
            seen.append(gevent.getcurrent())
            return HttpResponse("x")
        urlpatterns.append(path("", page))
        peer = Peer(site(), HTTP, REQUEST)
        peer.end()
        print(seen == [peer.greenlet])
    """).endswith("True")
