"""The TCP hub: a message broker in one process, without Redis."""
