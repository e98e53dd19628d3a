"""Checks of the installed packages, GPU, Slurm, disk and data (`mochi doctor`)."""
