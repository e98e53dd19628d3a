"""Checkpoints by name: where they lie and how they are fetched."""
