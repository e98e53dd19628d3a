"""Examinations of this set-up."""
