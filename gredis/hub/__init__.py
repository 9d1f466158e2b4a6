"""The TCP hub: the server side of the TCP carrier, run by `python -m gredis`."""
