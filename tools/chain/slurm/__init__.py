"""Submitting stages to Slurm and reading its queue."""
