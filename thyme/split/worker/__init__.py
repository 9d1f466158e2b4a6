"""The worker's side of the split."""
