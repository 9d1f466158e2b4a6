"""The Django project around the chat: where its services are, its settings, its applications.

`addresses.py` says where Redis and Postgres are, `settings.py` everything else; `asgi.py` is the
application, `relay.py` the one that hands each connection to a worker.
"""
