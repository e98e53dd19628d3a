"""Painting and writing of the embedded data sets of handwritten digits."""
