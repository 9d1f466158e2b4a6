"""The database engine of the chat on gevent; Django asks for a package with `base` in it."""
