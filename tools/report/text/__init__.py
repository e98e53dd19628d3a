"""Wording, numbers and escaping in reports."""
