"""Supervised child processes, and the signals that stop a program."""
