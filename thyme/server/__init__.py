"""Sockets, greenlets, and the life of a connection."""
