"""Readers for untrusted checkpoint files."""
