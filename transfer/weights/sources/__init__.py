"""Fetch checkpoints given by address, and list public ones by name."""
