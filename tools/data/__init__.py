"""Fetching public data sets."""
