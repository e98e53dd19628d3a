"""Benchmarks against reference implementations, and their recorded figures."""
