"""The Django project of the chat: addresses of its services, settings, applications.

`addresses.py` has the addresses of Redis and PostgreSQL, `settings.py` all other settings.
`asgi.py` is the application; `relay.py` is the one that hands each connection to a worker.
"""
