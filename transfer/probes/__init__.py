"""Classification on frozen features: linear heads and kNN."""
