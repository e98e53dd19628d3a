"""What every run needs: settings, storage, ranks, devices, checkpoints, exit codes."""
