"""The command line of the server."""

READY = "Thyme listens on "
"""Start of the line on standard output with which a server reports that it is ready."""
