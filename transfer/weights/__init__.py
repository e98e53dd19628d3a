"""Convert checkpoints into verified backbone files."""
