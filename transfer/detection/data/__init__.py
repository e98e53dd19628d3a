"""Data sets for Detectron2: register, check and share them between ranks; the order of the training data."""
