"""Makers of test inputs: small data sets, checkpoints of every family, folders of a chain."""
