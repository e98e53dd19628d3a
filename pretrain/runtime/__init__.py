"""Infrastructure of every run: settings, storage, ranks, devices, checkpoints, exit codes, the command line."""
