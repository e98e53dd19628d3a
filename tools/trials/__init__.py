"""Trials of the chain: a real Slurm on the loopback device, and stages that count."""
