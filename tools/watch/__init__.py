"""A local, read-only web page of a running chain."""
