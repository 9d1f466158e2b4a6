"""The server's side of the split: the relay."""
