"""Channels consumers and Django views without asyncio."""
