"""Builders of test inputs: small data sets, checkpoints of every family, chain folders."""
