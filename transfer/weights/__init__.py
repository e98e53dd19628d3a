"""From a checkpoint to a verified backbone file."""
