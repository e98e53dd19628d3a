"""Benchmarks against reference implementations, and their recorded results."""
