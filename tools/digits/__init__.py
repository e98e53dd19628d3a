"""The embedded data sets of handwritten digits."""
