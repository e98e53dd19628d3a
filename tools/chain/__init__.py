"""Chains: pretrain, convert, transfer, report as stages whose state is files; on this machine or on Slurm."""
