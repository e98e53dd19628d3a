"""Readers of checkpoint files that trust nothing in them."""
