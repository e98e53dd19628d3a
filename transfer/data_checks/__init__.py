"""Checks of detection data sets before training."""
