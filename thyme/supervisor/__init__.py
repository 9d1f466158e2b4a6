"""Supervised child processes, and the signals that stop a program."""

READY = "Thyme listens on "
"""Start of the line on standard output with which a server reports that it is ready."""
