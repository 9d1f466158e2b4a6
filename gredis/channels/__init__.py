"""The channel layer for Django Channels."""
