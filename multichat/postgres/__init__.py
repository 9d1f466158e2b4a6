"""The database engine of the chat on gevent; Django requires a package with a module `base`."""
